import Codegen
@testable import Driver
import Foundation
import Interpreter
import LLVMKit
import Passes
import TensorIR
import TestSupport
import Testing
import TileIR
import UltraRuntime

/// Products by AMX's tiles, with the tiles in memory; where the machine has AMX, by the instructions too.
@Suite struct TileTests {
  /// What tiles are made of in these tests.
  enum Tiles: String, CaseIterable {
    case emulated, real

    static var here: [Tiles] { CPULevel.supportedByHost.contains(.amx) ? allCases : [.emulated] }

    var make: @Sendable (IRModule) -> any TileInstructions {
      switch self {
      case .emulated: { EmulatedTiles($0) }
      case .real: { AMXInstructions($0.context) }
      }
    }
  }

  private func compiled(
    _ module: Module, _ weights: any WeightProvider, _ tiles: Tiles = .emulated, schedule: TileSchedule = TileSchedule()
  ) throws -> CompiledProgram {
    try CompiledProgram(
      module, weights: weights, level: .amx, schedule: schedule, optimization: .less, tiles: tiles.make)
  }

  private func compiled(_ subject: LowPrecisionTests.Subject, _ tiles: Tiles = .emulated) throws -> CompiledProgram {
    try CompiledProgram(
      subject.program, of: subject.module, weights: subject.weights, level: .amx, optimization: .less,
      tiles: tiles.make)
  }

  // MARK: - bf16

  /// What a program of `LowPrecisionTests.product` gives, in the order that docs/tile-ir.md states for this level: steps of
  /// 32 contracted elements, in each the even ones and the odd ones on their own, numbers below the normal range as zeros.
  private func expected(_ subject: LowPrecisionTests.Subject) throws -> [Float] {
    func numbers(_ tensor: HostTensor?) throws -> [Float] {
      try #require(tensor).asBFloat16().doubles.map { flushed(Float($0)) }
    }
    func flushed(_ number: Float) -> Float {
      number.isSubnormal ? Float(signOf: number, magnitudeOf: 0) : number
    }
    let x = try numbers(subject.inputs["x"])
    let w = try numbers(subject.weights.tensors["w"])
    let weight = try #require(subject.program.buffers.first { $0.name == "w" })
    guard case .weight(_, .panels(_, let transposed)) = weight.home else { return [] }
    let stored = try #require(subject.weights.tensors["w"]).shape
    let (inner, outer) = transposed ? (stored[1], stored[0]) : (stored[0], stored[1])
    var result = [Float](repeating: 0, count: x.count / inner * outer)
    for case .contract(let contraction) in subject.program.kernels[0].statements {
      let segment = contraction.left.first..<contraction.left.first + contraction.left.count
      for row in 0..<x.count / inner {
        for column in 0..<outer {
          for first in stride(from: segment.lowerBound, to: segment.upperBound, by: 32) {
            var sums: [Float] = [0, 0]
            for index in first..<min(first + 32, segment.upperBound) {
              let factor = w[transposed ? column * inner + index : index * outer + column]
              sums[index % 2] = flushed(sums[index % 2].addingProduct(x[row * inner + index], factor))
            }
            let place = row * outer + column
            result[place] = flushed(flushed(result[place]) + flushed(sums[0] + sums[1]))
          }
        }
      }
    }
    return result
  }

  @Test("products of bf16 have the bits of the order that is documented")
  func products() throws {
    for tiles in Tiles.here {
      for seed in 1...15 as ClosedRange<UInt64> {
        var subject = try LowPrecisionTests.product(seed: seed)
        // Some with products about fp32's least normal number.
        if seed % 5 == 0 {
          for (name, tensor) in subject.inputs {
            subject.inputs[name] = HostTensor(tensor.floats.map { $0 * 0x1p-63 }, shape: tensor.shape)
          }
          for (name, tensor) in subject.weights.tensors {
            let scaled = HostTensor(tensor.doubles.map { Float($0) * 0x1p-63 }, shape: tensor.shape)
            subject.weights.tensors[name] = try scaled.asBFloat16()
          }
        }
        let found = try compiled(subject, tiles).run(subject.inputs)[0].tensor
        #expect(found.floats.map(\.bitPattern) == (try expected(subject)).map(\.bitPattern), "\(subject), \(tiles)")
      }
    }
  }

  @Test("a row has the same bits among any number of rows", arguments: [[50, 70], [32, 32], [7, 100], [96, 20]])
  func rows(widths: [Int]) throws {
    for tiles in Tiles.here {
      let subject = try LowPrecisionTests.product(seed: 7, widths: widths, rows: 80, block: 64)
      let model = try compiled(subject, tiles)
      let x = try #require(subject.inputs["x"])
      let all = try model.run(subject.inputs)[0].tensor
      for count in 0...80 {
        let found = try model.run(["x": x.rows(Array(0..<count))])[0].tensor
        #expect(found == (try all.rows(Array(0..<count))), "\(subject), \(count) rows, \(tiles)")
      }
    }
  }

  /// The interpreter adds in the order of the other levels.
  @Test("attention without an activation is as near as two orders of fp32 sums")
  func attention() throws {
    let pool = try ThreadPool(workers: 3)
    for tiles in Tiles.here {
      for seed in 1...8 as ClosedRange<UInt64> {
        let subject = try LowPrecisionTests.attention(seed: seed)
        let model = try compiled(subject, tiles)
        let found = try model.run(subject.inputs)[0].tensor
        let expected = try subject.interpreted()
        // A score between two numbers of bf16, 2^-8 apart below 2, may be rounded to either; rarely any is.
        expectClose(found, expected, atol: 0x1p-9, rtol: 0x1p-9, "\(subject), \(tiles)")
        #expect(zip(found.doubles, expected.doubles).filter { abs($0 - $1) > 1e-5 }.count <= expected.count / 20)
        #expect(try model.run(subject.inputs, pool: pool)[0].tensor == found, "\(subject), \(tiles), threads")
        // Guards around all memory, and numbers that are none in the workspace.
        let call = try RawCall(model.model, subject.inputs)
        call.workspace.fill(0xFF)
        #expect(call.run() == .ok)
        #expect(call.results()[0] == found.bytes, "\(subject), \(tiles), guarded")
      }
    }
  }

  // MARK: - Programs

  @Test(
    "compiled code gives what the interpreter gives",
    arguments: [RandomProgram.Kind.precision, .narrowAttention, .ranking])
  func programs(kind: RandomProgram.Kind) throws {
    for tiles in Tiles.here {
      for seed in 1...12 as ClosedRange<UInt64> {
        let program = try RandomProgram(kind, seed: seed)
        var module = program.module
        try PassManager(PassPipeline(parsing: ["fuse", ""][Int(seed % 2)])).run(on: &module)
        let found = try compiled(module, program.weights, tiles).run(program.inputs)
        let expected = try Interpreter(module: program.module, weights: program.weights, precision: .f64)
          .run("forward", inputs: program.inputs)
        for (found, expected) in zip(found, expected) {
          expectClose(
            found.tensor, expected.tensor, atol: kind.tolerance(of: expected.tensor), rtol: 0,
            "\(program), \(tiles): \(found.name)")
        }
      }
    }
  }

  /// Whole layers with products and attention of few bits.
  @Test(
    "a sequence's result has the same bits alone, in any batch, on any number of threads",
    arguments: ["matmul=bf16,attention=bf16", "matmul=fp8,attention=bf16", "matmul=int8"])
  func determinism(precision: String) throws {
    let pools = try (2...3).map { try ThreadPool(workers: $0) }
    for tiles in Tiles.here {
      for (kind, seed) in [(RandomProgram.Kind.production, 11), (.recommendation, 13)] {
        let program = try RandomProgram(kind, seed: UInt64(seed), options: .init(fixedDivisor: true))
        var module = program.module
        try PassManager(PassPipeline(parsing: "lower-precision{\(precision)},canonicalize,cse,dce,fuse"))
          .run(on: &module)
        var schedule = TileSchedule()
        (schedule.rows, schedule.attentionRows, schedule.keys) = (40, 64, 48)
        schedule.shortAttention = .init(rows: 32, below: 20)
        let model = try compiled(module, program.weights, tiles, schedule: schedule)
        let together = try model.run(program.inputs)
        for pool in pools {
          for (threaded, single) in zip(try model.run(program.inputs, pool: pool), together) {
            #expect(threaded.tensor == single.tensor, "\(program): \(single.name), \(pool.workers) threads, \(tiles)")
          }
        }
        let all = Array(0..<program.sequenceCount)
        for order in [all.reversed(), all + all] + all.map({ [$0] }) {
          let other = try program.selecting(order)
          let found = try model.run(other.inputs)
          for (name, tensor) in found where name != "kept_offsets" {
            let ranges = try #require(other.rows(ofResult: name, in: found))
            let wanted = try #require(program.rows(ofResult: name, in: together))
            let expected = try #require(together.first { $0.name == name }).tensor
            for (range, sequence) in zip(ranges, order) {
              let same = try tensor.rows(Array(range)) == expected.rows(Array(wanted[sequence]))
              #expect(same, "\(program): \(name) of sequence \(sequence) in \(order), \(tiles)")
            }
          }
        }
      }
    }
  }

  // MARK: - i8

  /// A product of codes of i8: rows of x with a scale each, and a weight with a scale for each column.
  private func bytes(_ inner: Int, _ outer: Int) throws -> Module {
    var build = FunctionBuilder(module: Module(name: "bytes"), name: "forward")
    let x = build.argument("x", .tensor([.symbol("rows"), .fixed(inner)], .f32))
    _ = try build.weight("w", [inner, outer])
    var operands = try build.append(.quantizeRows(QuantizeRows(to: .i8)), [x])
    operands.append(build.derivedWeight("codes", [inner, outer], .i8, .codes("w", channels: .columns)))
    operands.append(build.derivedWeight("scales", [outer], .f32, .scales("w", channels: .columns, of: .i8)))
    build.result("y", try build.append(.quantizedLinear(QuantizedLinear()), operands)[0])
    return build.finish()
  }

  @Test("products of i8 have the bits of every other level")
  func integers() throws {
    let level = try #require(CPULevel.supportedByHost.first)
    for tiles in Tiles.here {
      var random = Random(seed: 23)
      for (inner, outer) in [(64, 64), (1, 1), (3, 33), (66, 16), (130, 50), (255, 96), (40, 17)] {
        let module = try bytes(inner, outer)
        let weights = WeightTable(["w": random.tensor([inner, outer])])
        let model = try compiled(module, weights, tiles)
        let reference = try CompiledProgram(module, weights: weights, level: level, optimization: .less)
        for rows in [1, 8, 15, 16, 17, 31, 32, 33, 48, 70] {
          let inputs = ["x": random.tensor([rows, inner])]
          let (found, expected) = (try model.run(inputs), try reference.run(inputs))
          #expect(found[0].tensor == expected[0].tensor, "\(rows) rows, \(inner) x \(outer), \(tiles)")
        }
      }
    }
  }

  // MARK: - Instructions

  /// An object of a program with AMX's own instructions.
  private func object(_ program: Program, of module: Module) throws -> [UInt8] {
    let backend = Backend(
      levels: [.amx], compiler: .init(name: "test", version: "0", flags: []),
      model: .init(name: "test", sourceChecksum: "0"))
    let (generated, machine) = try backend.generate([program], of: module, in: Context())
    return try machine.emitObject(generated)
  }

  /// The instructions of each function of an object, by binutils' disassembler.
  private func disassembly(_ object: [UInt8]) throws -> [(function: String, text: String)] {
    let text = try withTemporaryFolder { folder in
      let file = folder.appendingPathComponent("model.o")
      try Data(object).write(to: file)
      let process = Process()
      process.executableURL = URL(fileURLWithPath: "/usr/bin/objdump")
      process.arguments = ["--disassemble", "--no-show-raw-insn", file.path]
      let output = Pipe()
      process.standardOutput = output
      try process.run()
      let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
      process.waitUntilExit()
      try #require(process.terminationStatus == 0)
      return text
    }
    // Functions begin with a line such as "0000000000000000 <forward.run>:".
    return text.components(separatedBy: "\n\n").compactMap { section in
      guard let line = section.split(separator: "\n").first(where: { $0.hasSuffix(">:") }),
        let start = line.firstIndex(of: "<")
      else { return nil }
      return (String(line[line.index(after: start)...].dropLast(2)), section)
    }
  }

  private static let tileInstructions = [
    "ldtilecfg", "tilerelease", "tileloadd", "tilestored", "tilezero", "tdpbf16ps", "tdpbusd",
  ]

  @Test("kernels set tiles up and give them back, and products are tiles'")
  func instructions() throws {
    let pairs = try LowPrecisionTests.attention(seed: 3, activation: "silu")
    let bytes = try bytes(70, 50)
    let subjects = [
      (pairs.program, pairs.module, "tdpbf16ps"), (try lowerToTiles(bytes, function: "forward"), bytes, "tdpbusd"),
    ]
    for (program, module, product) in subjects {
      let functions = try disassembly(object(program, of: module))
      let kernels = functions.filter { $0.function.contains(".kernel.") && $0.text.contains("ldtilecfg") }
      #expect(kernels.count == 1)
      for (name, text) in kernels {
        func places(_ instruction: String) -> [Int] {
          text.components(separatedBy: "\n").enumerated().filter { $0.element.contains(instruction) }.map(\.offset)
        }
        #expect(places("ldtilecfg").count == 1, "\(name)")
        #expect(!places("tilerelease").isEmpty, "\(name)")
        // Nothing but what calls and returns stands outside.
        let calls = places("contract.")
        #expect(!calls.isEmpty && calls.allSatisfy { $0 > places("ldtilecfg")[0] && $0 < places("tilerelease")[0] })
      }
      let products = functions.filter { $0.function.contains(".contract.") }
      #expect(!products.isEmpty)
      for (name, text) in products {
        for instruction in [product, "tileloadd", "tilestored", "ldtilecfg"] {
          #expect(text.contains(instruction), "\(name): \(instruction)")
        }
        #expect(!text.contains("tilerelease"), "\(name)")
        #expect(!text.contains(product == "tdpbusd" ? "vpdpbusd" : "vdpbf16ps"), "\(name)")
      }
      for (name, text) in functions where !name.contains(".contract.") && !name.contains(".kernel.") {
        #expect(!Self.tileInstructions.contains { text.contains($0) }, "\(name)")
      }
    }
  }

  @Test("the peak of tiles is that of products that wait for nothing", arguments: [ElementType.bf16, .i8])
  func peak(element: ElementType) throws {
    let functions = try disassembly(MachinePeak.tileLoop(element))
    let text = try #require(functions.first { $0.function == "peak" }).text
    let products = text.components(separatedBy: element == .i8 ? "tdpbusd" : "tdpbf16ps").count - 1
    #expect(products == AMXInstructions.independentSums)
    let order = ["syscall", "ldtilecfg", element == .i8 ? "tdpbusd" : "tdpbf16ps", "tilerelease"]
    let places = try order.map { try #require(text.range(of: $0), "\($0)").lowerBound }
    #expect(places == places.sorted())
  }

  @Test("a file with code for AMX takes the level below where there is none, or is refused with what is missing")
  func machinesWithoutTiles() throws {
    guard !CPULevel.supportedByHost.contains(.amx), let highest = CPULevel.native else { return }
    let levels = CPULevel.allCases.filter { $0.architecture == .x8664 }
    var backend = Backend(
      levels: levels, compiler: .init(name: "test", version: "0", flags: []),
      model: .init(name: "test", sourceChecksum: "0"))
    var random = Random(seed: 29)
    let module = try bytes(20, 30)
    let table = WeightTable(["w": random.tensor([20, 30])])
    let inputs = ["x": random.tensor([5, 20])]
    try withTemporaryFolder { folder in
      let path = folder.appendingPathComponent("model.ultra").path
      try backend.compile(module, weights: table, to: path)
      let model = try LoadedModel(path: path)
      #expect(model.level == highest.rawValue)
      #expect(model.manifest.levels.map(\.name) == levels.reversed().map(\.rawValue))
      let expected = try CompiledProgram(module, weights: table, level: highest).run(inputs)
      #expect(try model.run(inputs)[0].tensor == expected[0].tensor)
      backend.levels = [.amx]
      try backend.compile(module, weights: table, to: path)
      #expect {
        try LoadedModel(path: path)
      } throws: { error in
        "\(error)".contains("this file needs sapphirerapids: \(CPULevel.amx.requirement)")
      }
    }
  }
}
