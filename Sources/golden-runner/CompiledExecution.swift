import Artifact
import Driver
import GoldenCases
import Passes
import TensorIR
import UltraRuntime

/// Compiles the program of a case into the file `artifact`, loads it, and runs `forward` on the case's inputs.
///
/// The program goes the way of a default compile: its passes, its levels of code.
func compileAndRun(
  _ program: GoldenProgram, artifact: String
) throws -> [(name: String, tensor: HostTensor)] {
  var module = program.module
  try module.verify()
  let options = CompileOptions(model: artifact)
  _ = try PassManager(PassPipeline(level: options.optimization.rawValue)).run(on: &module)
  let backend = Backend(
    levels: options.levels, compiler: Manifest.Compiler(name: "golden-runner", version: compilerVersion, flags: []),
    model: Manifest.Model(name: module.name, sourceChecksum: ""))
  try backend.compile(module, weights: program.weights, to: artifact)
  let model = try LoadedModel(path: artifact)
  let inputs = try program.inputs.mapValues { tensor in
    guard let element = Manifest.Element(rawValue: tensor.element.rawValue) else {
      throw DriverError("a model takes no \(tensor.element.rawValue)")
    }
    return try Tensor(element: element, shape: tensor.shape, bytes: tensor.bytes)
  }
  return try model.run(inputs: inputs).map { name, tensor in
    guard let element = ElementType(rawValue: tensor.element.rawValue) else {
      throw DriverError("the model gives \(tensor.element.rawValue), which has no meaning here")
    }
    return (name, try HostTensor(element: element, shape: tensor.shape, bytes: tensor.bytes))
  }
}
