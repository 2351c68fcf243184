import Artifact
import Codegen
@testable import Driver
import Foundation
import LLVMKit
import TensorIR
import TestSupport
import Testing
import TileIR

/// Code for AMD's GPUs, without one.
@Suite("Code for AMD's GPUs")
struct GPUWaveTests {
  /// The linker that `make test` installs, or one on the PATH.
  static let linker = CodeObjectLinker.search()
  private static let disassembler = ExternalProgram.search(["llvm-objdump-19", "llvm-objdump"])

  private static func part(_ module: Module) throws -> GPUPart {
    var backend = CompiledProgram.backend(module, [.avx2], .less)
    backend.gpus = [.gfx942]
    backend.codeObjectLinker = linker
    return try backend.generateGPU(module)
  }

  /// The instructions of a code object's functions, by name.
  private static func disassembled(_ code: [UInt8]) throws -> [String: [Substring]] {
    let program = try #require(disassembler)
    // What a program prints is longer than what is kept of it.
    let ended = try ExternalProgram(path: "/bin/sh").run(
      ["-c", "\"$0\" -d --no-show-raw-insn --mcpu=gfx942 kernels.co > listing", program.path],
      files: [("kernels.co", code)], result: "listing", kind: .assembler)
    #expect(ended.status == 0, "\(ended.messages)")
    var functions: [String: [Substring]] = [:]
    var name = ""
    for line in String(decoding: ended.result ?? [], as: UTF8.self).split(separator: "\n") {
      if line.hasSuffix(">:"), let start = line.firstIndex(of: "<") {
        name = String(line[line.index(after: start)...].dropLast(2))
      } else {
        functions[name, default: []].append(line)
      }
    }
    return functions
  }

  @Test(
    "kernels are linked, multiply by matrix instructions, and keep what they need in registers",
    .enabled(if: linker != nil && disassembler != nil), arguments: GPUModels.shapes)
  func linked(shape: GPUModels.Shape) throws { try expectLinked(GPUModels.stack(shape), Self.bf16, "\(shape)") }

  @Test(
    "so are those of products of codes", .enabled(if: linker != nil && disassembler != nil),
    arguments: [("int8", "v_mfma_i32_16x16x32_i8"), ("fp8", "v_mfma_f32_16x16x32_fp8_fp8")], GPUModels.codeShapes)
  func linkedOfCodes(form: (matmul: String, instruction: String), shape: GPUModels.Shape) throws {
    try expectLinked(
      GPUModels.stack(shape, matmul: form.matmul), form.instruction, "\(form.matmul) \(shape)")
  }

  @Test(
    "so are kernels of fp32, which have none, and of biases by times",
    .enabled(if: linker != nil && disassembler != nil), arguments: GPUModels.Form.allCases)
  func linked(form: GPUModels.Form) throws {
    for shape in GPUModels.formShapes + (form == .narrowWithTimes ? [] : [GPUModels.widest]) {
      try expectLinked(
        GPUModels.layer(shape, form), form == .narrowWithTimes ? Self.bf16 : nil, "\(form) \(shape)")
    }
  }

  private static let bf16 = "v_mfma_f32_16x16x16_bf16"

  /// Links a module's kernels and looks for the matrix instruction of its products, and of its attention that of bf16; nil where nothing
  /// is in low precision.
  private func expectLinked(_ module: Module, _ instruction: String?, _ what: String) throws {
    let part = try Self.part(module)
    let (image, resources) = (part.images[0], part.resources[0])
    let code = try #require(image.code)
    #expect(code.starts(with: [0x7F] + Array("ELF".utf8)) && image.ptx.isEmpty)
    let functions = try Self.disassembled(code)
    #expect(Set(resources.keys) == Set(image.launches[0].map(\.symbol)))
    for launch in image.launches[0] {
      let own = try #require(resources[launch.symbol])
      #expect(own.spilledBytes == 0 && own.registers > 0 && own.registers <= 512, "\(launch.symbol) of \(what)")
      #expect(launch.sharedBytes <= GPUTarget.gfx942.sharedBytes && launch.cluster == 1 && launch.columnParts == 1)
      #expect(launch.threads % GPUTarget.gfx942.lanes == 0 && launch.threads <= 1024)
      let instructions = try #require(functions[launch.symbol])
      let kernel = image.programs[0].kernels[launch.kernel]
      // Segments that begin within a step have no fragments.
      let hasFragments = kernel.buffers.contains {
        if case .weight(_, .fragments) = image.programs[0][$0].home { true } else { false }
      }
      let isAttention = instruction != nil && kernel.summary == "attention"
      let expected = isAttention ? Self.bf16 : instruction ?? "v_mfma"
      #expect(
        instructions.contains { $0.contains(expected) } == (hasFragments || isAttention),
        "\(launch.symbol): \(kernel.summary)")
      #expect(!instructions.contains { $0.contains("scratch_") }, "\(launch.symbol) of \(what)")
    }
  }

  @Test("rankings are linked, and keep what they need in registers", .enabled(if: linker != nil && disassembler != nil))
  func linkedRankings() throws {
    for module in try GPUModels.rankings {
      let part = try Self.part(module)
      let functions = try Self.disassembled(try #require(part.images[0].code))
      for launch in part.images[0].launches[0] {
        let own = try #require(part.resources[0][launch.symbol])
        #expect(own.spilledBytes == 0 && own.registers > 0, "\(launch.symbol)")
        #expect(launch.sharedBytes <= GPUTarget.gfx942.sharedBytes)
        let instructions = try #require(functions[launch.symbol])
        #expect(!instructions.contains { $0.contains("scratch_") })
        let isNarrow = launch.symbol.contains("top_k") && module.weights.contains { $0.type.element == .bf16 }
        #expect(instructions.contains { $0.contains(Self.bf16) } == isNarrow, "\(launch.symbol)")
      }
    }
  }

  /// The product of a packed weight and rows by what the matrix instruction does with the numbers of 64 lanes, for rows of so many
  /// columns.
  @Test("fragments are what a wave's lanes take", arguments: [(16, 32), (40, 33), (7, 5), (64, 64)])
  func fragments(contracted: Int, columns: Int) throws {
    var random = Random(seed: 7)
    let weight = (0..<contracted * columns).map { _ in Float(random.integer(in: -8...8)) }
    let rows = (0..<16 * contracted).map { _ in Float(random.integer(in: -8...8)) }
    var packed: [UInt8] = []
    let bits = weight.flatMap { [UInt8(truncatingIfNeeded: $0.bitPattern >> 16), UInt8($0.bitPattern >> 24)] }
    let tensor = try HostTensor(element: .bf16, shape: [contracted, columns], bytes: bits)
    try WeightPacking(.fragments(transposed: false), of: WeightRows(tensor), rows: contracted, columns: columns).write {
      packed += $0
    }
    func number(at offset: Int) -> Float {
      Float(bitPattern: (UInt32(packed[offset]) | UInt32(packed[offset + 1]) << 8) << 16)
    }
    let steps = (contracted + 15) / 16
    for panel in 0..<(columns + 31) / 32 {
      for half in 0..<2 {
        // CDNA3 ISA: of the sum lane `l` has rows 4 * (l / 16) and on of column l % 16.
        var sums = Array(repeating: Array(repeating: Float(0), count: 4), count: 64)
        for step in 0..<steps {
          var (left, right) = (sums, sums)
          for lane in 0..<64 {
            let (row, slice) = (lane % 16, lane / 16)
            let start =
              (panel * steps + step) * 1024 + (row / 2 % 2) * 512 + (row / 4 * 4 + slice) * 16 + row % 2 * 8 + half
              * 256
            for place in 0..<4 {
              left[lane][place] = number(at: start + 2 * place)
              let column = step * 16 + 2 * slice + place / 2 * 8 + place % 2
              right[lane][place] = column < contracted ? rows[row * contracted + column] : 0
            }
          }
          for lane in 0..<64 {
            for place in 0..<4 {
              for inner in 0..<16 {
                let (slice, rest) = (inner / 4, inner % 4)
                sums[lane][place] +=
                  left[16 * slice + lane / 16 * 4 + place][rest] * right[16 * slice + lane % 16][rest]
              }
            }
          }
        }
        for lane in 0..<64 {
          for place in 0..<4 {
            let (row, column) = (lane % 16, panel * 32 + half * 16 + lane / 16 * 4 + place)
            let expected = (0..<contracted).reduce(Float(0)) { sum, inner in
              column < columns ? sum + rows[row * contracted + inner] * weight[inner * columns + column] : 0
            }
            #expect(sums[lane][place] == expected, "row \(row), column \(column)")
          }
        }
      }
    }
  }

  @Test("without a linker, or with one that is none, the error says what is missing")
  func noLinker() throws {
    let (module, _) = try GPUStubTests.model()
    var backend = CompiledProgram.backend(module, [.avx2], .less)
    backend.gpus = [.gfx942]
    #expect {
      _ = try backend.generateGPU(module)
    } throws: {
      "\($0)".contains("gfx942 is linked by ld.lld") && "\($0)".contains("--lld")
    }
    backend.codeObjectLinker = CodeObjectLinker(path: "/bin/false")
    #expect {
      _ = try backend.generateGPU(module)
    } throws: {
      "\($0)".contains("/bin/false refused the code for gfx942: status 1")
    }
  }

  @Test("a damaged code object is refused", .enabled(if: linker != nil))
  func damaged() throws {
    let (module, _) = try GPUStubTests.model()
    let image = try Self.part(module).images[0]
    let code = try #require(image.code)
    let resources = try CodeObjectMetadata(code).resources
    #expect(resources.count == image.launches[0].count)
    // The header and the note lie in front.
    for length in stride(from: 0, to: 2000, by: 13) {
      #expect(throws: DriverError.self) { _ = try CodeObjectMetadata(Array(code.prefix(length))) }
    }
    var random = Random(seed: 9)
    for _ in 0..<2000 {
      var damaged = code
      for _ in 0..<3 { damaged[random.integer(in: 0...4000)] = UInt8(random.integer(in: 0...255)) }
      do {
        _ = try CodeObjectMetadata(damaged)
      } catch let error as DriverError {
        #expect(error.message.hasPrefix("the code object cannot be read: "))
      }
    }
  }

  @Test("the text of one target is LLVM's, or assembly")
  func text() throws {
    try withTemporaryFolder { folder in
      let model = try ModelFolder(folder)
      let lower = "lower-precision{matmul=bf16,attention=bf16}"
      func text(_ target: String, _ form: String) throws -> Outcome {
        try ultrac("compile", model.model, "--rewrite", lower, "--gpu", target, "--emit", form)
      }
      let assembly = try text("gfx942", "asm")
      #expect(assembly.status == 0 && assembly.output.contains(".amdgcn_target \"amdgcn-amd-amdhsa--gfx942\""))
      #expect(assembly.output.hasPrefix("; entry {") && assembly.output.contains("\n; launch {"))
      let module = try text("gfx942", "llvm-ir")
      #expect(module.output.contains("define amdgpu_kernel void @forward_0_"))
      #expect(module.output.contains("@llvm.amdgcn.mfma.f32.16x16x16bf16.1k"))
      #expect(try text("sm_80", "llvm-ir").output.contains("define ptx_kernel void @forward_0_"))
      #expect(try text("sm_80", "asm").output.hasPrefix("// entry {"))
      let refused = try text("gfx942", "ptx")
      #expect(refused.status != 0 && refused.errors.contains("gfx942 has no PTX"))
      let several = try text("sm_80,gfx942", "asm")
      #expect(several.status != 0 && several.errors.contains("write the code of one GPU"))
    }
  }
}
