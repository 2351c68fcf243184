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
  ]

  /// The levels whose features the kernel reports, which drops those whose registers it does not save.
  private func levelsByKernel() throws -> [CPULevel] {
    let text = try String(contentsOfFile: "/proc/cpuinfo", encoding: .utf8)
    let line = try #require(text.split(separator: "\n").first { $0.hasPrefix("flags") })
    let flags = Set(line.split(whereSeparator: { " \t:".contains($0) }).map(String.init))
    return CPULevel.allCases.filter { level in
      level.features.allSatisfy { flags.contains(Self.linuxNames[$0.name] ?? $0.name) }
    }
  }

  @Test("the emitted detection agrees with the kernel", arguments: [nil, "default<O2>"] as [String?])
  func detection(pipeline: String?) throws {
    let context = Context()
    let module = IRModule("detection", in: context)
    let detection = CPULevel.emitDetection(into: module)
    // Hidden, so reached through a function that is not.
    let probe = module.addFunction("probe", type: detection.type)
    let b = IRBuilder(at: probe.appendBlock("entry"))
    b.ret(b.call(detection, []))
    let object = try load(module, optimizing: pipeline)
    let bits = try object.function("probe", as: (@convention(c) () -> UInt32).self)()
    #expect(CPULevel.levels(inBits: bits) == (try levelsByKernel()))
    #expect(bits >> CPULevel.allCases.count == 0)
    if pipeline == nil {
      #expect(throws: HarnessError.self) { try object.address(CPULevel.detectionSymbol) }
    }
  }

  @Test("the compiler's own view of this machine agrees with the kernel")
  func host() throws {
    #expect(CPULevel.supportedByHost == (try levelsByKernel()))
    #expect(CPULevel.native == CPULevel.supportedByHost.last)
  }

  @Test("one missing feature takes the level and the ones above away")
  func missingFeature() {
    let all = CPULevel.avx512BF16.features.map { "+\($0.name)" }
    #expect(CPULevel.supported(byFeatures: all.joined(separator: ",")) == CPULevel.allCases)
    for feature in CPULevel.avx512BF16.features {
      let without = all.map { $0 == "+\(feature.name)" ? "-\(feature.name)" : $0 }.joined(separator: ",")
      let expected = CPULevel.allCases.filter { !$0.features.contains(feature) }
      #expect(CPULevel.supported(byFeatures: without) == expected, "without \(feature.name)")
    }
    #expect(CPULevel.supported(byFeatures: "") == [])
  }

  @Test("levels are ordered and include the lower ones' features")
  func order() {
    #expect(CPULevel.allCases == CPULevel.allCases.sorted())
    #expect(CPULevel.allCases.map(\.ordinal) == Array(CPULevel.allCases.indices))
    for (lower, upper) in zip(CPULevel.allCases, CPULevel.allCases.dropFirst()) {
      #expect(Set(lower.features).isStrictSubset(of: upper.features))
    }
    #expect(CPULevel.allCases.map(\.rawValue) == ["x86-64-v3", "x86-64-v4", "znver4"])
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
      let text = try TargetMachine(triple: "x86_64-unknown-linux-gnu").emitAssembly(module)
      #expect(text.contains("vcvtneps2bf16") == (level == .avx512BF16), "\(level.rawValue)")
    }
  }
}
