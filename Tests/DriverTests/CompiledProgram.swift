import Codegen
@testable import Driver
import Foundation
import LLVMKit
import Passes
import TensorIR
import TestSupport
import TileIR
import UltraRuntime

/// A program compiled for one level of this machine, and loaded.
struct CompiledProgram {
  let model: LoadedModel

  init(
    _ module: Module, weights: any WeightProvider, level: CPULevel, schedule: TileSchedule = TileSchedule(),
    optimization: CompileOptions.Optimization = .standard,
    tiles: (@Sendable (IRModule) -> any TileInstructions)? = nil
  ) throws {
    var backend = Self.backend(module, [level], optimization)
    backend.schedule = schedule
    if let tiles { backend.tiles = tiles }
    model = try withTemporaryFolder { folder in
      let path = folder.appendingPathComponent("\(module.name).ultra").path
      try backend.compile(module, weights: weights, to: path)
      return try LoadedModel(path: path)
    }
  }

  /// A tile program instead of what the function in `module` is lowered to; arguments and results are the function's.
  init(
    _ program: Program, of module: Module, weights: any WeightProvider, level: CPULevel,
    optimization: CompileOptions.Optimization = .standard,
    tiles: (@Sendable (IRModule) -> any TileInstructions)? = nil
  ) throws {
    model = try withTemporaryFolder { folder in
      let path = folder.appendingPathComponent("\(module.name).ultra").path
      var backend = Self.backend(module, [level], optimization)
      if let tiles { backend.tiles = tiles }
      try Self.write(program, of: module, weights: weights, by: backend, to: path)
      return try LoadedModel(path: path)
    }
  }

  /// What an entry gives for inputs, by name.
  func results(of entry: String, _ inputs: [String: HostTensor]) throws -> [String: HostTensor] {
    let found = try model.run(entry: entry, inputs: inputs.mapValues { try Tensor($0) })
    return Dictionary(uniqueKeysWithValues: try found.map { ($0.name, try HostTensor($0.tensor)) })
  }

  /// Writes the artifact of a tile program whose arguments and results are those of the function in `module`.
  static func write(
    _ program: Program, of module: Module, weights: any WeightProvider, by backend: Backend, to path: String
  ) throws {
    let (generated, machine) = try backend.generate([program], of: module, in: Context())
    _ = try backend.write([program], object: machine.emitObject(generated), weights: weights, to: path)
  }

  static func backend(_ module: Module, _ levels: [CPULevel], _ optimization: CompileOptions.Optimization) -> Backend {
    var backend = Backend(
      levels: levels, compiler: .init(name: "test", version: "0", flags: []),
      model: .init(name: module.name, sourceChecksum: "0"))
    backend.optimization = optimization
    return backend
  }

  /// The results of `forward`.
  func run(_ inputs: [String: HostTensor], pool: ThreadPool? = nil) throws -> [(name: String, tensor: HostTensor)] {
    try model.run(inputs, pool: pool)
  }
}

extension CPULevel {
  /// The levels of this machine whose results have the same bits: tiles add sums of bf16 in an order of their own.
  static var ofOneOrder: [CPULevel] { supportedByHost.filter { !$0.hasTiles } }
}

extension LoadedModel {
  /// The results of `forward`.
  func run(_ inputs: [String: HostTensor], pool: ThreadPool? = nil) throws -> [(name: String, tensor: HostTensor)] {
    try run(inputs: inputs.mapValues { try Tensor($0) }, pool: pool).map { ($0.name, try HostTensor($0.tensor)) }
  }
}
