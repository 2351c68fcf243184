import Artifact
import Codegen
import Driver
import Foundation
import GoldenCases
import Interpreter
import Passes
import TensorIR
import TestSupport
import Testing
import UltraRuntime

/// Artifacts for 64-bit ARM, made on this machine and run by QEMU, against the interpreter and against this machine.
@Suite struct CrossTargetTests {
  private static let levels = CPUArchitecture.aarch64.levels

  /// An artifact with code for every level of ARM.
  private func write(
    _ module: Module, _ weights: any WeightProvider, levels: [CPULevel] = Self.levels,
    optimization: CompileOptions.Optimization = .less, to folder: URL
  ) throws -> String {
    let path = folder.appending(path: "\(module.name).ultra").path
    try CompiledProgram.backend(module, levels, optimization).compile(module, weights: weights, to: path)
    return path
  }

  // MARK: - Meaning

  /// Where only fp32 is computed, or codes of bytes, every processor gives the same bits; where pairs of bf16 are
  /// multiplied, those without an instruction for them do.
  private func expectAgreement(
    _ program: RandomProgram, _ module: Module, levels: [CPULevel], on machines: [ForeignMachine]
  ) throws {
    let expected = try Interpreter(module: program.module, weights: program.weights, precision: .f64)
      .run("forward", inputs: program.inputs)
    let host = try #require(CPULevel.supportedByHost.first)
    let here = try CompiledProgram(module, weights: program.weights, level: host, optimization: .less)
      .run(program.inputs)
    let isNarrow = module.text.contains("bf16") || module.text.contains("f8e4m3")
    try withTemporaryFolder { folder in
      let path = try write(module, program.weights, levels: levels, to: folder)
      for machine in machines {
        let found = try machine.run(path, program.inputs)
        #expect(found.map(\.name) == expected.map(\.name))
        for (index, (found, expected)) in zip(found, expected).enumerated() {
          expectClose(
            found.tensor, expected.tensor, atol: program.kind.tolerance(of: expected.tensor), rtol: 0,
            "\(program) on \(machine): \(found.name)")
          if machine != .max || !isNarrow {
            #expect(found.tensor == here[index].tensor, "\(program) on \(machine): \(found.name)")
          }
        }
      }
    }
  }

  private static let narrowKinds: [RandomProgram.Kind] = [.precision, .narrowAttention]

  @Test(
    "programs of fp32 give this machine's bits",
    arguments: RandomProgram.Kind.allCases.filter { !narrowKinds.contains($0) })
  func randomPrograms(kind: RandomProgram.Kind) throws {
    // Levels of ARM differ in products of narrow numbers alone: they take turns.
    let place = try #require(RandomProgram.Kind.allCases.firstIndex(of: kind))
    let first = UInt64(401 + place % 2)
    for seed in first...(kind == .operation ? first + 5 : first) {
      let program = try RandomProgram(kind, seed: seed)
      var module = program.module
      try PassManager(PassPipeline(parsing: seed / 2 % 2 == 0 ? "fuse" : "")).run(on: &module)
      let (level, machine) = seed % 2 == 0 ? (CPULevel.neonBF16, ForeignMachine.max) : (.neon, .cortexA72)
      try expectAgreement(program, module, levels: [level], on: [machine])
    }
  }

  @Test("programs of narrow numbers do too, but where bf16 has its own instruction", arguments: narrowKinds)
  func narrowPrograms(kind: RandomProgram.Kind) throws {
    for seed in 401...(kind == .precision ? 408 : 402) as ClosedRange<UInt64> {
      let program = try RandomProgram(kind, seed: seed)
      try expectAgreement(program, program.module, levels: Self.levels, on: ForeignMachine.allCases)
    }
  }

  @Test("a golden case of each kind passes")
  func goldenCases() throws {
    let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
      .appending(path: "Golden").path
    var kinds: Set<String> = []
    for name in GoldenCase.names(amongFiles: try FileManager.default.contentsOfDirectory(atPath: folder)) {
      let golden = try GoldenCase(name, in: folder)
      guard kinds.insert(golden.kind).inserted else { continue }
      let report = golden.check { program, _ in
        try withTemporaryFolder { folder in
          var options = CompileOptions(model: program.module.name)
          options.levels = [.neonBF16]
          var compiler = Compiler(options)
          let path = folder.appending(path: "\(name).ultra").path
          try compiler.compile(program.module, weights: program.weights, to: path)
          return try ForeignMachine.max.run(path, program.inputs, entry: program.entry)
        }
      }
      #expect(report.status == .passed, "\(name)")
    }
    #expect(kinds.count > 5)
  }

  @Test("code of every effort gives the same bits")
  func optimizations() throws {
    let program = try RandomProgram(.recommendation, seed: 420)
    try withTemporaryFolder { folder in
      let results = try CompileOptions.Optimization.allCases.map { optimization in
        let path = try write(
          program.module, program.weights, levels: [.neonBF16], optimization: optimization, to: folder)
        return try ForeignMachine.max.run(path, program.inputs).map(\.tensor)
      }
      for result in results { #expect(result == results[0]) }
    }
  }

  // MARK: - Products of bf16

  @Test("products of bf16 have the interpreter's bits below the level that has an instruction for them")
  func productsWithoutInstruction() throws {
    for seed in 1...4 as ClosedRange<UInt64> {
      // The instruction rounds sums to odd: errors are of one unit of fp32's last place each, of up to 90 sums below 8.
      // In attention a score may then be rounded to the other of two neighbours of bf16, 2^-7 apart.
      let subjects = [
        (try LowPrecisionTests.product(seed: seed), 90 * 0x1p-21, 0),
        (try LowPrecisionTests.attention(seed: seed), 0.125 * 0x1p-7, 0x1p-7),
      ]
      for (subject, atol, rtol) in subjects {
        let expected = try subject.interpreted()
        try withTemporaryFolder { folder in
          let path = try write(subject, to: folder)
          for machine in [ForeignMachine.cortexA72, .neoverseN1] {
            #expect(try machine.run(path, subject.inputs)[0].tensor == expected, "\(subject), \(machine)")
          }
          expectClose(
            try ForeignMachine.max.run(path, subject.inputs)[0].tensor, expected, atol: atol, rtol: rtol, "\(subject)")
        }
      }
    }
  }

  @Test("products of bf16 have the bits of the instruction at the level that has it")
  func productsWithInstruction() throws {
    for seed in 1...6 as ClosedRange<UInt64> {
      let subject = try LowPrecisionTests.product(seed: seed)
      let weight = try #require(subject.weights.tensors["w"])
      let x = try #require(subject.inputs["x"])
      let found = try withTemporaryFolder { folder in
        try ForeignMachine.max.run(write(subject, to: folder), subject.inputs)[0].tensor
      }
      let (rows, inner, outer) = (x.shape[0], x.shape[1], found.shape[1])
      let isTransposed = weight.shape != [inner, outer]
      let (left, right) = (try x.asBFloat16().floats, weight.floats)
      var expected: [Float] = []
      for row in 0..<rows {
        for column in 0..<outer {
          func product(_ index: Int) -> Float {
            guard index < inner else { return 0 }
            let place = isTransposed ? column * inner + index : index * outer + column
            return left[row * inner + index] * right[place]
          }
          expected.append(
            stride(from: 0, to: inner, by: 2).reduce(0) { sum, index in
              Self.addToOdd(sum, Self.addToOdd(product(index), product(index + 1)))
            })
        }
      }
      #expect(found == HostTensor(expected, shape: [rows, outer]), "\(subject)")
    }
  }

  /// The sum, and where that is no fp32 number, its neighbour whose last bit is 1.
  ///
  /// Source: Arm Architecture Reference Manual for A-profile, BFDOT without FEAT_EBF16.
  private static func addToOdd(_ a: Float, _ b: Float) -> Float {
    let (x, y) = (Double(a), Double(b))
    let sum = x + y
    let error = (x - (sum - (sum - x))) + (y - (sum - x))
    var nearest = Float(sum)
    if Double(nearest) == sum, error == 0 { return nearest }
    // Away from the exact sum in magnitude: the neighbour towards zero is below it.
    let excess = Double(nearest) - sum - error
    if nearest.sign == .plus ? excess > 0 : excess < 0 {
      nearest = Float(bitPattern: nearest.bitPattern - 1)
    }
    return Float(bitPattern: nearest.bitPattern | 1)
  }

  private func write(_ subject: LowPrecisionTests.Subject, to folder: URL) throws -> String {
    let path = folder.appending(path: "\(subject.module.name).ultra").path
    let backend = CompiledProgram.backend(subject.module, Self.levels, .less)
    try CompiledProgram.write(subject.program, of: subject.module, weights: subject.weights, by: backend, to: path)
    return path
  }

  // MARK: - Code

  /// The mnemonics of each function of an artifact, by its name.
  private func functions(_ path: String) throws -> [String: [Substring]] {
    let text = try ForeignMachine.runTool("llvm-objdump-19", ["--disassemble", "--no-show-raw-insn", path])
    var functions: [String: [Substring]] = [:]
    var name = ""
    for line in text.split(separator: "\n") {
      if let start = line.firstIndex(of: "<"), line.hasSuffix(">:") {
        name = String(line[line.index(after: start)...].dropLast(2))
      } else if let colon = line.firstIndex(of: ":"), line.first == " " {
        let words = line[line.index(after: colon)...].split(whereSeparator: \.isWhitespace)
        if let mnemonic = words.first { functions[name, default: []].append(mnemonic) }
      }
    }
    return functions
  }

  @Test("matrix kernels are made of the multiply-adds of their level, and call nothing")
  func instructions() throws {
    let cases: [(ElementType, [CPULevel: Set<Substring>])] = [
      (.f32, [.neon: ["fmla"], .neonDot: ["fmla"], .neonBF16: ["fmla"]]),
      (.bf16, [.neon: ["fmla"], .neonDot: ["fmla"], .neonBF16: ["bfdot"]]),
      (.i8, [.neon: ["sadalp"], .neonDot: ["sdot"], .neonBF16: ["usdot", "sudot"]]),
    ]
    let multiplyAdds: Set<Substring> = ["fmla", "bfdot", "sadalp", "sdot", "usdot", "sudot"]
    for (element, expected) in cases {
      try withTemporaryFolder { folder in
        let functions = try functions(write(Self.linear(element), WeightTable(["w": .identity(64)]), to: folder))
        for level in Self.levels {
          let kernels = functions.filter { $0.key.contains("\(level.rawValue).micro.") }
          #expect(kernels.count > 2)
          for (name, mnemonics) in kernels {
            let found = multiplyAdds.intersection(mnemonics)
            #expect(!found.isEmpty && found.isSubset(of: expected[level] ?? []), "\(element), \(name): \(found)")
            #expect(!mnemonics.contains("bl") && !mnemonics.contains("blr"), "\(element), \(name)")
          }
          let tallest = kernels.values.map(\.count).max() ?? 0
          #expect(tallest < 250, "\(element): registers are spilled, or loops unrolled")
        }
      }
    }
  }

  /// x times a weight of 64 x 64, in numbers or codes of this type.
  private static func linear(_ element: ElementType) throws -> Module {
    var build = FunctionBuilder(module: Module(name: "linear"), name: "forward")
    let x = build.argument("x", .tensor([.symbol("rows"), .fixed(64)], .f32))
    let w = try build.weight("w", [64, 64])
    switch element {
    case .f32: build.result("y", try build.emit(.linear(Linear()), x, w))
    case .bf16:
      let narrow = build.derivedWeight("narrow", [64, 64], .bf16, .convert("w"))
      build.result("y", try build.emit(.linear(Linear()), build.emit(.convert(Convert(to: .bf16)), x), narrow))
    default:
      var operands = try build.append(.quantizeRows(QuantizeRows(to: element)), [x])
      operands.append(build.derivedWeight("codes", [64, 64], element, .codes("w", channels: .columns)))
      operands.append(build.derivedWeight("scales", [64], .f32, .scales("w", channels: .columns, of: element)))
      build.result("y", try build.append(.quantizedLinear(QuantizedLinear()), operands)[0])
    }
    return build.finish()
  }

  // MARK: - Files

  @Test("the file needs nothing, holds what an artifact may hold, and is read and refused on another machine")
  func file() throws {
    try withTemporaryFolder { folder in
      let model = try ModelFolder(folder)
      let path = folder.appending(path: "arm.ultra").path
      let names = Self.levels.map(\.rawValue).joined(separator: ",")
      let compiled = try ultrac("compile", model.model, "-o", path, "--target-cpu", names)
      #expect(compiled.status == 0, "\(compiled.errors)")

      let reader = try ArtifactReader.open(path, verify: .full)
      #expect(reader.machine == .aarch64)
      #expect(reader.manifest.levels.map(\.name) == Self.levels.reversed().map(\.rawValue))
      let sections = try ForeignMachine.runTool("llvm-readelf-19", ["--sections", "--dynamic", "--wide", path])
      #expect(!sections.contains("NEEDED"))
      let allowed: Set = [
        ".gnu.hash", ".dynsym", ".dynstr", ".rela.dyn", ".text", ".rodata", ".eh_frame", ".note.ultra",
        ".note.ultra.weights", ".data.rel.ro", ".dynamic", ".got", ".symtab", ".strtab", ".shstrtab",
      ]
      let found = sections.matches(of: /\[ *\d+\] (\.\S+)/).map { String($0.1) }
      #expect(found.count > 8 && Set(found).isSubset(of: allowed), "\(found)")

      let inspected = try ultrac("inspect", path, "--verify")
      #expect(inspected.status == 0 && inspected.output.contains("for aarch64, checksum"))
      if Machine.host != .aarch64 {
        let host = try #require(Machine.host).name
        let run = try ultrac("run", path, "--inputs", "none.safetensors", "--outputs", "none.safetensors")
        #expect(run.status != 0 && run.output.isEmpty)
        #expect(
          run.errors == "error: \(path): this file is for aarch64; this machine is \(host); "
            + "compile with a --target-cpu of it\n")
      }
    }
  }

  @Test("a machine that has no level of the file is told what it lacks")
  func refusal() throws {
    try withTemporaryFolder { folder in
      let program = try RandomProgram(.operation, seed: 1)
      let path = try write(program.module, program.weights, levels: [.neonBF16, .neonDot], to: folder)
      let answer = try ForeignMachine.cortexA72.call(path, program.inputs)
      #expect(answer.status == ForeignMachine.Answer.refused)
      #expect(
        answer.text
          == "this file needs neoverse-n1 (the least demanding of its 2 levels): \(CPULevel.neonDot.requirement); "
          + "compile with --target-cpu armv8-a, or several: --target-cpu armv8-a,neoverse-n1,neoverse-v1")
      _ = try ForeignMachine.neoverseN1.run(path, program.inputs)
    }
  }

  @Test("levels of two architectures are refused with a way out")
  func mixedLevels() throws {
    let error = #expect(throws: DriverError.self) { try [CPULevel](targetCPU: "neoverse-v1,x86-64-v3,znver4") }
    #expect(
      error?.message
        == "--target-cpu: expected levels of one architecture, found x86-64-v3,znver4 of x86_64 and neoverse-v1 of aarch64"
    )
    #expect(error?.hint == "a file holds code for one architecture: compile once for each")
    let program = try RandomProgram(.operation, seed: 1)
    try withTemporaryFolder { folder in
      #expect(throws: DriverError.self) { try write(program.module, program.weights, levels: [], to: folder) }
      #expect(throws: DriverError.self) {
        try write(program.module, program.weights, levels: [.neon, .avx2], to: folder)
      }
    }
  }
}

extension HostTensor {
  /// The identity of this width.
  fileprivate static func identity(_ width: Int) -> HostTensor {
    HostTensor((0..<width * width).map { $0 % (width + 1) == 0 ? 1 : 0 } as [Float], shape: [width, width])
  }
}
