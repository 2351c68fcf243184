import Interpreter
import TensorIR
import TestSupport
import Testing

/// Rows that are added to sequences and picked from them, by hand.
@Suite struct AdditionTests {
  private func run(
    _ text: String, _ inputs: [String: HostTensor]
  ) throws -> [String: HostTensor] {
    let module = try TensorIRParser.parse(text)
    let results = try Interpreter(module: module, weights: WeightTable(), precision: .f32)
      .run("forward", inputs: inputs)
    return Dictionary(uniqueKeysWithValues: results.map { ($0.name, $0.tensor) })
  }

  private static let before = """
    module m
    func @forward(%a: tensor<sequences x 4 x f32>, %b: tensor<sequences x 2 x f32>, %x: tensor<rows x 2 x f32>, %t: tensor<rows x i64>, %at: offsets<sequences x rows>) -> (r: tensor<longer x 2 x f32>, times: tensor<longer x i64>, at: offsets<sequences x longer>, back: tensor<rows x 2 x f32>) {
      %longer = extend_offsets %at {add = before(3), into = longer}
      %r = extend_rows %a, %b, %x, %at, %longer {add = before(3)}
      %times = extend_rows %t, %at, %longer {add = before(3), value = -9}
      %back = original_rows %r, %at, %longer {add = before(3)}
      return %r, %times, %longer, %back
    }
    """

  @Test("rows before each sequence, also before an empty one")
  func before() throws {
    let x = HostTensor([1, 2, 3, 4, 5, 6] as [Float], shape: [3, 2])
    let found = try run(
      Self.before,
      [
        "a": HostTensor([10, 11, 12, 13, 20, 21, 22, 23, 30, 31, 32, 33] as [Float], shape: [3, 4]),
        "b": HostTensor([14, 15, 24, 25, 34, 35] as [Float], shape: [3, 2]), "x": x,
        "t": HostTensor([7, 8, 9] as [Int64]), "at": HostTensor([0, 1, 1, 3] as [Int64]),
      ])
    #expect(found["at"]?.integers == [0, 4, 7, 12])
    #expect(
      found["r"]?.floats == [
        10, 11, 12, 13, 14, 15, 1, 2, 20, 21, 22, 23, 24, 25, 30, 31, 32, 33, 34, 35, 3, 4, 5, 6,
      ])
    #expect(found["times"]?.integers == [-9, -9, -9, 7, -9, -9, -9, -9, -9, -9, 8, 9])
    #expect(found["back"] == x)
  }

  @Test("an action row behind each history row, none behind a target")
  func interleaved() throws {
    let text = """
      module m
      func @forward(%x: tensor<rows x 1 x f32>, %y: tensor<rows x 1 x f32>, %t: tensor<rows x i64>, %at: offsets<sequences x rows>, %targets: tensor<sequences x i64>) -> (r: tensor<both x 1 x f32>, times: tensor<both x i64>, at: offsets<sequences x both>, back: tensor<rows x i64>) {
        %both = extend_offsets %at, %targets {add = interleaved, into = both}
        %r = extend_rows %y, %x, %at, %both, %targets {add = interleaved}
        %times = extend_rows %t, %t, %at, %both, %targets {add = interleaved}
        %back = original_rows %times, %at, %both, %targets {add = interleaved}
        return %r, %times, %both, %back
      }
      """
    let found = try run(
      text,
      [
        "x": HostTensor([1, 2, 3, 4, 5, 6] as [Float], shape: [6, 1]),
        "y": HostTensor([10, 20, 30, 40, 50, 60] as [Float], shape: [6, 1]),
        "t": HostTensor([1, 2, 3, 4, 5, 6] as [Int64]),
        // Two of history and a target; nothing; a target alone; two of history.
        "at": HostTensor([0, 3, 3, 4, 6] as [Int64]), "targets": HostTensor([1, 0, 1, 0] as [Int64]),
      ])
    #expect(found["at"]?.integers == [0, 5, 5, 6, 10])
    #expect(found["r"]?.floats == [1, 10, 2, 20, 3, 4, 5, 50, 6, 60])
    #expect(found["times"]?.integers == [1, 1, 2, 2, 3, 4, 5, 5, 6, 6])
    #expect(found["back"]?.integers == [1, 2, 3, 4, 5, 6])
  }

  @Test("a row of each sequence, zeros where there is none or the other sequence is short")
  func picked() throws {
    let text = """
      module m
      func @forward(%x: tensor<slots x 2 x f32>, %at: offsets<sequences x slots>, %lengths: offsets<sequences x rows>) -> (first: tensor<sequences x 2 x f32>, second: tensor<sequences x 2 x f32>, long: tensor<sequences x 2 x f32>) {
        %first = pick_rows %x, %at {row = 0}
        %second = pick_rows %x, %at {row = 1}
        %long = pick_rows %x, %at, %lengths {row = 0, minimum = 3}
        return %first, %second, %long
      }
      """
    let found = try run(
      text,
      [
        "x": HostTensor([1, 2, 3, 4, 5, 6, 7, 8] as [Float], shape: [4, 2]),
        "at": HostTensor([0, 2, 2, 3, 4] as [Int64]), "lengths": HostTensor([0, 3, 9, 11, 15] as [Int64]),
      ])
    #expect(found["first"]?.floats == [1, 2, 0, 0, 5, 6, 7, 8])
    #expect(found["second"]?.floats == [3, 4, 0, 0, 0, 0, 0, 0])
    #expect(found["long"]?.floats == [1, 2, 0, 0, 0, 0, 7, 8])
  }

  @Test("without sequences there are no rows")
  func emptyBatch() throws {
    let none = { (width: Int) in HostTensor([] as [Float], shape: [0, width]) }
    let found = try run(
      Self.before,
      ["a": none(4), "b": none(2), "x": none(2), "t": HostTensor([] as [Int64]), "at": HostTensor([0] as [Int64])])
    #expect(found["r"]?.shape == [0, 2])
    #expect(found["at"]?.integers == [0])
  }
}
