import GoldenCases
import TensorIR

/// Why a case's program was not compiled.
struct CompiledExecutionError: Error, CustomStringConvertible {
  var description: String
}

/// Compiles the program of a case into the file `artifact`, loads it, and runs `forward` on the case's inputs.
func compileAndRun(
  _ program: GoldenProgram, artifact: String
) throws -> [(name: String, tensor: HostTensor)] {
  throw CompiledExecutionError(description: "this build of golden-runner has no code generator; use --interpret")
}
