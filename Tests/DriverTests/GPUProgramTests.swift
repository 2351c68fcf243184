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

/// Programs for GPUs: what they mean, without a GPU.
@Suite("Programs for GPUs")
struct GPUProgramTests {
  private static func backend(_ module: Module) -> Backend { CompiledProgram.backend(module, [.avx2], .less) }

  @Test("mean what the function means", arguments: RandomProgram.Kind.allCases.filter { $0 != .precision })
  func meaning(kind: RandomProgram.Kind) throws {
    for seed in 1...12 as ClosedRange<UInt64> {
      let random = try RandomProgram(kind, seed: seed)
      try check(random.module, random.weights, random.inputs, kind, .f64, scale: 0x1p-29, "\(random)")
    }
  }

  @Test(
    "of narrow numbers mean what the function means",
    arguments: [
      (RandomProgram.Kind.production, "bf16", 12 as UInt64), (.recommendation, "bf16", 12), (.production, "int8", 4),
      (.production, "fp8", 4),
    ])
  func narrow(kind: RandomProgram.Kind, matmul: String, count: UInt64) throws {
    for seed in 1...count {
      let random = try RandomProgram(kind, seed: seed)
      var module = random.module
      try PassManager(PassPipeline(parsing: "lower-precision{matmul=\(matmul),attention=bf16}")).run(on: &module)
      // A number between two of bf16 may be rounded to either.
      try check(module, random.weights, random.inputs, kind, .f32, scale: 0x1p-6 / 2e-5, "\(random)")
    }
  }

  private func check(
    _ module: Module, _ weights: WeightTable, _ inputs: [String: HostTensor], _ kind: RandomProgram.Kind,
    _ precision: Interpreter.Precision, scale: Double, _ context: String
  ) throws {
    let program = try Self.backend(module).lowerForGPU(module, target: .sm90a)[0]
    let derived = DerivedWeights(module, base: weights)
    let found = try TileInterpreter(program: program, weights: derived, precision: precision).run(inputs)
    let expected = try Interpreter(module: module, weights: weights, precision: precision).run(
      "forward", inputs: inputs)
    for (found, expected) in zip(found, expected) {
      // Rows of one number are columns of memory.
      let own = try HostTensor(element: found.tensor.element, shape: expected.tensor.shape, bytes: found.tensor.bytes)
      expectClose(
        own, expected.tensor, atol: kind.tolerance(of: expected.tensor) * scale, rtol: 0,
        "\(context): \(found.name)")
    }
  }

  @Test("attention is a kernel of its own, and no kernel has a product after a norm of another's result")
  func kernels() throws {
    let (module, _) = try GPUStubTests.model()
    let program = try Self.backend(module).lowerForGPU(module, target: .sm90a)[0]
    #expect(
      program.kernels.map(\.summary) == [
        "layer_norm + convert + linear + silu + convert + convert + convert", "attention",
        "layer_norm + multiply + concatenate + convert + linear + add",
        "layer_norm + convert + linear + silu + convert + convert + convert", "attention",
        "layer_norm + multiply + concatenate + convert + linear + add", "select_rows",
      ])
    let weights = program.buffers.filter { $0.element == .bf16 }
    #expect(weights.contains { if case .weight(_, .fragments) = $0.home { true } else { false } })
  }

  /// Bits of bf16 numbers, packed.
  private func packed(_ numbers: [UInt16], _ packing: Packing, rows: Int, columns: Int) throws -> [UInt8] {
    let tensor = try HostTensor(
      element: .bf16, shape: [rows, columns], bytes: numbers.withUnsafeBytes { [UInt8]($0) })
    var bytes: [UInt8] = []
    try WeightPacking(packing, of: WeightRows(tensor), rows: rows, columns: columns).write { bytes += $0 }
    return bytes
  }

  /// A warp's right side of a product of 16 x 16 with 16 x 8 numbers, by PTX ISA's "Matrix Fragments for mma.m16n8k16": the words of a
  /// lane are pairs of rows `2 * place` and `2 * place + 8` of column `group`.
  @Test("fragments are what a warp's lanes take", arguments: [(16, 32), (40, 33), (7, 5), (512, 64)])
  func fragments(rows: Int, columns: Int) throws {
    for transposed in [false, true] {
      let numbers = (0..<rows * columns).map { UInt16($0 & 0xFFFF) + 1 }
      func number(_ row: Int, _ column: Int) -> UInt16 {
        row < rows && column < columns ? numbers[transposed ? column * rows + row : row * columns + column] : 0
      }
      let packing = Packing.fragments(transposed: transposed)
      let (stored, storedColumns) = transposed ? (columns, rows) : (rows, columns)
      let bytes = try packed(numbers, packing, rows: stored, columns: storedColumns)
      #expect(bytes.count == packing.byteCount(rows: stored, columns: storedColumns, .bf16))
      let packed = bytes.withUnsafeBytes { Array($0.bindMemory(to: UInt16.self)) }
      let steps = (rows + 15) / 16
      for panel in 0..<(columns + 31) / 32 {
        for step in 0..<steps {
          for lane in 0..<32 {
            let (group, place) = (lane / 4, lane % 4)
            // Each lane reads 16 bytes of both halves: two words for each of four tiles of eight columns.
            for tile in 0..<4 {
              for word in 0..<2 {
                let start = ((panel * steps + step) * 2 + tile / 2) * 32 * 8 + lane * 8 + tile % 2 * 4 + word * 2
                let row = step * 16 + 2 * place + 8 * word
                let column = panel * 32 + 4 * group + tile
                #expect(packed[start] == number(row, column) && packed[start + 1] == number(row + 1, column))
              }
            }
          }
        }
      }
    }
  }

  /// What four warps multiply lies in shared memory in tiles of 8 rows of 8 contracted numbers, 128 bytes each: "Canonical layouts"
  /// of wgmma's matrix descriptors in the PTX ISA, without a swizzle.
  @Test("matrices are what four warps take from shared memory", arguments: [(16, 256), (48, 512), (20, 300)])
  func matrices(rows: Int, columns: Int) throws {
    let numbers = (0..<rows * columns).map { UInt16(truncatingIfNeeded: $0) | 1 }
    let packing = Packing.matrices(transposed: false)
    let bytes = try packed(numbers, packing, rows: rows, columns: columns)
    #expect(bytes.count == packing.byteCount(rows: rows, columns: columns, .bf16))
    let packed = bytes.withUnsafeBytes { Array($0.bindMemory(to: UInt16.self)) }
    let steps = (rows + 15) / 16
    for panel in 0..<(columns + 255) / 256 {
      for step in 0..<steps {
        for place in 0..<4096 {
          // Tiles of eight columns, two of eight rows for each.
          let (tile, inTile) = (place / 64, place % 64)
          let row = step * 16 + tile % 2 * 8 + inTile % 8
          // Within 32 columns, tiles take two columns of each eight, so that a lane finishes neighbours.
          let (group, quarter) = (tile / 2 / 4, tile / 2 % 4)
          let column = panel * 256 + group * 32 + inTile / 8 / 2 * 8 + quarter * 2 + inTile / 8 % 2
          let expected = row < rows && column < columns ? numbers[row * columns + column] : 0
          #expect(packed[(panel * steps + step) * 4096 + place] == expected)
        }
      }
    }
  }

  /// The assembler that `make test` installs, or one on the PATH.
  static let assembler: PTXAssembler? = {
    if let path = ProcessInfo.processInfo.environment["PTXAS"], !path.isEmpty { return PTXAssembler(path: path) }
    return PTXAssembler.search()
  }()

  @Test(
    "kernels are assembled, and no matrix kernel spills", .enabled(if: GPUProgramTests.assembler != nil),
    arguments: GPUTarget.all(of: .nvidia), GPUModels.shapes)
  func assembled(target: GPUTarget, shape: GPUModels.Shape) throws { try checkAssembled(target, shape, "bf16") }

  @Test(
    "so are those of wide heads", .enabled(if: GPUProgramTests.assembler != nil), arguments: GPUTarget.all(of: .nvidia),
    [200, 256])
  func assembledOfWideHeads(target: GPUTarget, width: Int) throws {
    try checkAssembled(target, (width, 1, width, .causal), "bf16")
  }

  @Test(
    "so are those of products of codes", .enabled(if: GPUProgramTests.assembler != nil),
    arguments: [(GPUTarget.sm80, "int8"), (.sm90a, "int8"), (.sm90a, "fp8")], GPUModels.codeShapes)
  func assembledOfCodes(form: (target: GPUTarget, matmul: String), shape: GPUModels.Shape) throws {
    try checkAssembled(form.target, shape, form.matmul)
  }

  @Test("left sides of codes take half the room, so the gate's product takes twice as many rows at a time")
  func rowsOfCodes() throws {
    for (matmul, rows) in [("bf16", 64), ("int8", 128), ("fp8", 128)] {
      let module = try GPUModels.stack(GPUModels.shapes[0], matmul: matmul)
      let program = try Self.backend(module).lowerForGPU(module, target: .sm90a)[0]
      let launches = try GPUCode([program], target: .sm90a).emit(into: Context()).1[0]
      let gates = launches.filter { program.kernels[$0.kernel].summary.contains("multiply") }
      #expect(!gates.isEmpty && gates.allSatisfy { $0.rows == rows })
    }
  }

  private func checkAssembled(_ target: GPUTarget, _ shape: GPUModels.Shape, _ matmul: String) throws {
    let (program, text, launches) = try Self.expectNoSpills(
      GPUModels.stack(shape, matmul: matmul), target, "\(matmul) \(shape)")
    // Whole tiles of attention are multiplied by groups of four warps.
    #expect(launches.contains(where: \.isPersistent) == (target.hasMatrices && [64, 128].contains(shape.2)))
    // Products run on the matrix units, in the form of their numbers.
    let form = ["bf16": ".f32.bf16.bf16", "int8": ".s32.s8.s8", "fp8": ".f32.e4m3.e4m3"][matmul] ?? ""
    let bodies = text.components(separatedBy: ".entry ")
    for launch in launches {
      let kernel = program.kernels[launch.kernel]
      var group: String?
      for case .weight(_, let packing) in kernel.buffers.map({ program[$0].home }) {
        if case .fragments = packing { group = "mma.sync.aligned.m16n8k" }
        if case .matrices = packing { group = "wgmma.mma_async.sync.aligned.m64n" }
      }
      guard let group else { continue }
      let body = try #require(bodies.first { $0.hasPrefix("\(launch.symbol)(") })
      let isThere = body.split(separator: "\n").contains { $0.contains(group) && $0.contains(form) }
      #expect(isThere, "no \(group) of \(matmul) in \(launch.symbol) of \(shape)")
    }
  }

  @Test(
    "kernels of fp32 and of biases by times are assembled, and none spills",
    .enabled(if: GPUProgramTests.assembler != nil), arguments: GPUTarget.all(of: .nvidia), GPUModels.Form.allCases)
  func assembled(target: GPUTarget, form: GPUModels.Form) throws {
    for shape in GPUModels.formShapes + [GPUModels.widest] {
      let (program, text, _) = try Self.expectNoSpills(
        GPUModels.layer(shape, form), target, "\(form) \(shape)")
      let products = program.kernels.count { $0.summary.contains("linear") || $0.summary.contains("attention") }
      let count = text.split(separator: "\n").count { $0.contains("mma") }
      #expect(form == .narrowWithTimes ? count >= products : count == 0, "\(form) \(shape)")
    }
  }

  /// Assembles a module's kernels, of which each must keep what it needs in registers.
  private static func expectNoSpills(
    _ module: Module, _ target: GPUTarget, _ what: String
  ) throws -> (program: Program, text: String, launches: [GPULaunch]) {
    let programs = try backend(module).lowerForGPU(module, target: target)
    let (text, all) = try GPUCode(programs, target: target).assembly(in: Context())
    let launches = all.flatMap(\.self)
    let (code, resources) = try #require(assembler).assemble(Array(text.utf8), for: target)
    #expect(code.starts(with: [0x7F] + Array("ELF".utf8)))
    #expect(Set(resources.keys) == Set(launches.map(\.symbol)))
    for launch in launches {
      let own = try #require(resources[launch.symbol])
      #expect(own.spilledBytes == 0, "\(launch.symbol) of \(what)")
      #expect(!own.isSerialized, "\(launch.symbol) of \(what)")
      #expect(own.registers > 0 && own.registers * launch.threads <= 65536)
      #expect(launch.sharedBytes <= target.sharedBytes)
    }
    return (programs[0], text, launches)
  }

  @Test(
    "entries that go on from what is kept spill nothing", .enabled(if: GPUProgramTests.assembler != nil),
    arguments: GPUTarget.all(of: .nvidia),
    [("", 32), (TwoLayers.bf16, 128), (TwoLayers.bf16, 64), (TwoLayers.bf16, 25)])
  func assembledOfKept(target: GPUTarget, form: (passes: String, head: Int)) throws {
    for option in form.head == 64 ? ["", "{cache=fp8}"] : [""] {
      let module = try TwoLayers(
        .causal, width: 64, head: form.head, passes: form.passes + "cached-scoring\(option),prune-demand,fuse"
      ).module
      let (_, _, launches) = try Self.expectNoSpills(module, target, "\(form)\(option)")
      // Keys in two places are multiplied as those in one.
      let attentions = launches.filter { $0.symbol.hasPrefix("score") && $0.symbol.contains("attention") }
      #expect(attentions.count == 2)
      #expect(attentions.allSatisfy { $0.isPersistent == (target.hasMatrices && [64, 128].contains(form.head)) })
    }
  }

  @Test(
    "rankings are assembled and spill nothing", .enabled(if: GPUProgramTests.assembler != nil),
    arguments: GPUTarget.all(of: .nvidia))
  func assembledRankings(target: GPUTarget) throws {
    for module in try GPUModels.rankings {
      let program = try Self.backend(module).lowerForGPU(module, target: target)[0]
      let (text, all) = try GPUCode([program], target: target).assembly(in: Context())
      let launches = all[0]
      let (_, resources) = try #require(Self.assembler).assemble(Array(text.utf8), for: target)
      for launch in launches { #expect(try #require(resources[launch.symbol]).spilledBytes == 0, "\(launch.symbol)") }
      // Items of bf16 are multiplied by matrix instructions, others are not.
      let isNarrow = module.weights.contains { $0.type.element == .bf16 }
      #expect(text.contains("mma.sync") == isNarrow)
    }
  }

  @Test("random models have code for GPUs", arguments: RandomProgram.Kind.allCases, [GPUTarget.sm90a, .gfx942])
  func randomModels(kind: RandomProgram.Kind, target: GPUTarget) throws {
    for seed in 1...4 as ClosedRange<UInt64> {
      var module = try RandomProgram(kind, seed: seed).module
      try PassManager(PassPipeline(parsing: "lower-precision{matmul=bf16,attention=bf16}")).run(on: &module)
      let program = try Self.backend(module).lowerForGPU(module, target: target)[0]
      let (text, all) = try GPUCode([program], target: target).assembly(in: Context())
      let launches = all[0]
      #expect(launches.count == program.kernels.count && text.contains(target.rawValue))
    }
  }

  @Test("products of FP8 codes are refused where there is no instruction, with the kernel and what to do")
  func noFloat8() throws {
    let program = try Self.backend(GPUModels.stack(GPUModels.shapes[4], matmul: "fp8")).lowerForGPU(
      GPUModels.stack(GPUModels.shapes[4], matmul: "fp8"), target: .sm80)[0]
    #expect {
      _ = try GPUCode([program], target: .sm80).assembly(in: Context())
    } throws: { error in
      let text = "\(error)"
      return text.hasPrefix(
        "gpu: kernel layer_norm_0: no code yet for products of f8e4m3 on sm_80, which has no matrix")
        && text.contains(
          "\nhint: lower-precision{matmul=int8} and {matmul=bf16} have code there; sm_90a and gfx942 mul")
    }
  }

  @Test("equal programs give equal text", arguments: [GPUTarget.sm90a, .gfx942])
  func sameText(target: GPUTarget) throws {
    let (module, _) = try GPUStubTests.model()
    let program = try Self.backend(module).lowerForGPU(module, target: target)[0]
    let texts = try (0..<2).map { _ in try GPUCode([program], target: target).assembly(in: Context()).text }
    #expect(texts[0] == texts[1])
  }
}
