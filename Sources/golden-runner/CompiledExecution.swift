import Driver
import GoldenCases
import TensorIR
import UltraRuntime

/// Compiles the program of a case into the file `artifact`, as `ultrac compile` does, loads it, and runs the program's
/// function on the case's inputs.
func compileAndRun(
  _ program: GoldenProgram, artifact: String
) throws -> [(name: String, tensor: HostTensor)] {
  var compiler = Compiler(CompileOptions(model: program.module.name))
  try compiler.compile(program.module, weights: program.weights, to: artifact)
  let model = try LoadedModel(path: artifact)
  return try model.run(entry: program.entry, inputs: program.inputs.mapValues { try Tensor($0) })
    .map { ($0.name, try HostTensor($0.tensor)) }
}
