import Codegen
import Driver
import Foundation
import Interpreter
import TensorIR
import TestSupport
import Testing
import UltraRuntime

/// Compiled code against the interpreter, on random programs of every kind.
@Suite struct CompiledProgramTests {
  static let levels = CPULevel.supportedByHost

  static func compile(_ program: RandomProgram, levels: [CPULevel] = levels, into folder: URL) throws -> LoadedModel {
    let backend = Backend(
      levels: levels, compiler: .init(name: "ultrac", version: "test", flags: []),
      model: .init(name: program.module.name, sourceChecksum: "0"))
    let path = folder.appendingPathComponent("\(program.module.name).ultra").path
    try backend.compile(program.module, weights: program.weights, to: path)
    return try LoadedModel(path: path)
  }

  static func run(_ model: LoadedModel, _ inputs: [String: HostTensor], pool: ThreadPool? = nil) throws
    -> [(name: String, tensor: HostTensor)]
  {
    let tensors = try inputs.mapValues { input in
      try Tensor(
        element: #require(.init(rawValue: input.element.rawValue)), shape: input.shape, bytes: input.bytes)
    }
    return try model.run(inputs: tensors, pool: pool).map { name, tensor in
      let element = try #require(ElementType(rawValue: tensor.element.rawValue))
      return (name, try HostTensor(element: element, shape: tensor.shape, bytes: tensor.bytes))
    }
  }

  @Test(arguments: RandomProgram.Kind.allCases)
  func agreesWithTheInterpreter(_ kind: RandomProgram.Kind) throws {
    try withTemporaryFolder { folder in
      for seed in UInt64(1)...40 {
        let program = try RandomProgram(kind, seed: seed)
        // One level a program, in turn: each is compiled once, and every level sees every kind.
        let level = try #require(Self.levels.isEmpty ? nil : Self.levels[Int(seed) % Self.levels.count])
        let model = try Self.compile(program, levels: [level], into: folder)
        let got = try Self.run(model, program.inputs)
        let interpreter = Interpreter(module: program.module, weights: program.weights, precision: .f64)
        let expected = try interpreter.run("forward", inputs: program.inputs)
        try #require(got.map(\.name) == expected.map(\.name))
        for (result, reference) in zip(got, expected) {
          expectClose(
            result.tensor, reference.tensor, atol: kind.tolerance(of: reference.tensor), rtol: 0,
            "\(program), result \(result.name)")
        }
      }
    }
  }
}
