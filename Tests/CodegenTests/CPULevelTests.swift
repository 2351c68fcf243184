import Foundation
import LLVMKit
import Testing

@testable import Codegen

@Suite("CPU levels")
struct CPULevelTests {
  /// What Linux calls the features that LLVM names otherwise.
  private static let linuxNames = [
    "sse3": "pni", "sse4.1": "sse4_1", "sse4.2": "sse4_2", "bmi": "bmi1", "lzcnt": "abm", "sahf": "lahf_lm",
    "avx512vbmi2": "avx512_vbmi2", "avx512vnni": "avx512_vnni", "avx512bitalg": "avx512_bitalg",
    "avx512vpopcntdq": "avx512_vpopcntdq", "avx512bf16": "avx512_bf16",
    "amx-bf16": "amx_bf16", "amx-tile": "amx_tile", "amx-int8": "amx_int8",
  ]

  /// The levels whose features the kernel reports, which drops those whose registers it does not save.
  private func levelsByKernel() throws -> [CPULevel] {
    let text = try String(contentsOfFile: "/proc/cpuinfo", encoding: .utf8)
    let line = try #require(text.split(separator: "\n").first { $0.hasPrefix("flags") })
    let flags = Set(line.split(whereSeparator: { " \t:".contains($0) }).map(String.init))
    return CPUArchitecture.x8664.levels.filter { level in
      level.features.allSatisfy { flags.contains(Self.linuxNames[$0.name] ?? $0.name) }
    }
  }

  @Test("the emitted detection agrees with the kernel", arguments: [nil, "default<O2>"] as [String?])
  func detection(pipeline: String?) throws {
    let context = Context()
    let module = IRModule("detection", in: context)
    let architecture = CPUArchitecture.x8664
    let detection = architecture.emitDetection(of: architecture.levels, into: module)
    // Hidden, so reached through a function that is not.
    let probe = module.addFunction("probe", type: detection.type)
    let b = IRBuilder(at: probe.appendBlock("entry"))
    b.ret(b.call(detection, []))
    let object = try load(module, optimizing: pipeline)
    let bits = try object.function("probe", as: (@convention(c) () -> UInt32).self)()
    #expect(architecture.levels(inBits: bits) == (try levelsByKernel()))
    #expect(bits >> architecture.levels.count == 0)
    if pipeline == nil {
      #expect(throws: HarnessError.self) { try object.address(CPUArchitecture.detectionSymbol) }
    }
  }

  /// `i32 (words, state, permission, asked)`: the choice among all levels from given words of CPUID, and whether permission
  /// was asked for.
  @Test("a missing feature, unsaved registers or a refused permission leave the levels below")
  func choice() throws {
    let context = Context()
    let module = IRModule("choice", in: context)
    let (p, i32) = (context.pointer, context.i32)
    let probe = module.addFunction("probe", type: context.function([p, i32, i32, p], returns: i32))
    var b = IRBuilder(at: probe.appendBlock("entry"))
    let given = CPUIDWord.allCases.indices.map { b.load(i32, b.element(probe.parameters[0], i32, b.i64($0))) }
    let architecture = CPUArchitecture.x8664
    let words = CPUIDWords(
      features: given[0], structured: given[1], structuredMore: given[2], structuredLast: given[3],
      structuredSecond: given[4], extended: given[5])
    let answers = CPUIDAnswers(context: context, words: words, savedState: probe.parameters[1]) { b in
      b.store(b.i32(1), probe.parameters[3])
      return b.icmp(.ne, probe.parameters[2], b.i32(0))
    }
    let chosen = answers.emitChoice(&b, of: architecture.levels)
    b.ret(chosen)
    let object = try load(module)
    let function = try object.function(
      "probe", as: (@convention(c) (UnsafePointer<UInt32>, UInt32, UInt32, UnsafeMutablePointer<UInt32>) -> UInt32).self
    )
    func levels(without missing: CPUFeature? = nil, state: UInt32 = .max, permission: Bool = true) -> [CPULevel] {
      var bits = [UInt32](repeating: .max, count: CPUIDWord.allCases.count)
      for (index, word) in CPUIDWord.allCases.enumerated() {
        if case .bit(word, let bit) = missing?.evidence { bits[index] &= ~(1 << bit) }
      }
      var asked: UInt32 = 0
      let found = architecture.levels(inBits: function(bits, state, permission ? 1 : 0, &asked))
      // Asking changes the process: only where tiles would then be used.
      let hasAllElse = state & 0x6_00e6 == 0x6_00e6 && !CPULevel.amx.features.contains { $0 == missing }
      #expect((asked == 1) == hasAllElse)
      return found
    }
    #expect(levels() == architecture.levels)
    for feature in CPULevel.amx.features {
      #expect(
        levels(without: feature) == architecture.levels.filter { !$0.features.contains(feature) }, "\(feature.name)")
    }
    #expect(levels(state: 0x6_00e6) == architecture.levels)
    for state: UInt32 in [0x2_00e6, 0x4_00e6, 0xe6] { #expect(levels(state: state) == [.avx2, .avx512, .avx512BF16]) }
    #expect(levels(state: 0x6_0006) == [.avx2])
    #expect(levels(state: 0x6_0000) == [])
    #expect(levels(permission: false) == [.avx2, .avx512, .avx512BF16])
  }

  @Test("the emitted system call gives the answer that the C library's gives")
  func permission() throws {
    let context = Context()
    let module = IRModule("permission", in: context)
    let probe = module.addFunction("probe", type: context.function([], returns: context.i32))
    let b = IRBuilder(at: probe.appendBlock("entry"))
    b.ret(b.zext(CPUIDAnswers.emitTilePermission(b, context), to: context.i32))
    let object = try load(module)
    let function = try object.function("probe", as: (@convention(c) () -> UInt32).self)
    // Swift does not import it, since it takes any number of arguments.
    let symbol = try #require(dlsym(nil, "syscall"))
    let systemCall = unsafeBitCast(symbol, to: (@convention(c) (Int, Int, Int) -> Int).self)
    #expect((function() == 1) == (systemCall(158, 0x1023, 18) == 0))
    if !CPULevel.supportedByHost.contains(.amx) { #expect(function() == 0) }
  }

  @Test("the compiler's own view of this machine agrees with the kernel")
  func host() throws {
    #expect(CPULevel.supportedByHost == (try levelsByKernel()))
    #expect(CPULevel.native == CPULevel.supportedByHost.last)
  }

  @Test("detection for ARM reads the ID registers that its levels need, and none for the baseline")
  func detectionForARM() throws {
    func assembly(_ levels: [CPULevel]) throws -> String {
      let module = IRModule("detection", in: Context())
      _ = CPUArchitecture.aarch64.emitDetection(of: levels, into: module)
      return try TargetMachine(triple: CPUArchitecture.aarch64.triple).emitAssembly(module)
    }
    #expect(!(try assembly([.neon]).contains("mrs")))
    let some = try assembly([.neon, .neonDot])
    #expect(some.contains("ID_AA64ISAR0_EL1") && !some.contains("ID_AA64ISAR1_EL1"))
    let all = try assembly(CPUArchitecture.aarch64.levels)
    #expect(all.contains("ID_AA64ISAR0_EL1") && all.contains("ID_AA64ISAR1_EL1"))
    #expect(!all.contains("\tbl\t"))
  }

  @Test("one missing feature takes the level and the ones above away", arguments: CPUArchitecture.allCases)
  func missingFeature(architecture: CPUArchitecture) throws {
    let features = try #require(architecture.levels.last).features
    let all = features.map { "+\($0.name)" }
    #expect(architecture.levels(byFeatures: all.joined(separator: ",")) == architecture.levels)
    for feature in features {
      let without = all.map { $0 == "+\(feature.name)" ? "-\(feature.name)" : $0 }.joined(separator: ",")
      let expected = architecture.levels.filter { !$0.features.contains(feature) }
      #expect(architecture.levels(byFeatures: without) == expected, "without \(feature.name)")
    }
    #expect(architecture.levels(byFeatures: "") == architecture.levels.filter { $0.features.isEmpty })
  }

  @Test("levels are ordered and include the lower ones' features", arguments: CPUArchitecture.allCases)
  func order(architecture: CPUArchitecture) {
    let levels = architecture.levels
    #expect(levels == levels.sorted())
    #expect(levels.map(\.ordinal) == Array(levels.indices))
    for (lower, upper) in zip(levels, levels.dropFirst()) {
      #expect(Set(lower.features).isStrictSubset(of: upper.features))
    }
  }

  @Test("levels have the names that the command line takes")
  func names() {
    #expect(CPUArchitecture.x8664.levels.map(\.rawValue) == ["x86-64-v3", "x86-64-v4", "znver4", "sapphirerapids"])
    #expect(CPUArchitecture.aarch64.levels.map(\.rawValue) == ["armv8-a", "neoverse-n1", "neoverse-v1"])
    #expect(CPULevel.allCases == CPULevel.allCases.sorted())
  }

  @Test("a register tile fits the registers with room for its operands", arguments: CPULevel.allCases)
  func microKernel(level: CPULevel) {
    let shape = level.microKernel
    #expect(shape.lanes == level.vectorBits / 32)
    #expect(shape.columns == shape.columnVectors * shape.lanes)
    // Accumulators, one row of columns, and one broadcast value.
    #expect(shape.rows * shape.columnVectors + shape.columnVectors + 1 <= level.vectorRegisters)
    #expect(shape.rowHeights == shape.rowHeights.sorted(by: >) && shape.rowHeights.last == 1)
  }

  @Test("a function configured for a level uses the instructions of that level and none beyond")
  func configuration() throws {
    let context = Context()
    for level in CPULevel.allCases {
      let module = IRModule("bf16", in: context)
      let function = module.addFunction("convert", type: context.function([context.pointer], returns: context.void))
      level.configure(function)
      let b = IRBuilder(at: function.appendBlock("entry"))
      let value = b.load(context.vector(context.f32, level.floatLanes), function.parameters[0], alignment: 4)
      b.store(b.fptrunc(value, to: value.type.withElement(context.bf16)), function.parameters[0], alignment: 2)
      b.ret()
      let text = try TargetMachine(triple: level.architecture.triple).emitAssembly(module)
      #expect(text.contains("vcvtneps2bf16") == [.avx512BF16, .amx].contains(level), "\(level.rawValue)")
      #expect(text.contains("bfcvtn") == (level == .neonBF16), "\(level.rawValue)")
    }
  }
}
