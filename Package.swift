// swift-tools-version: 6.1
import PackageDescription

let package = Package(
  name: "ultrac",
  products: [
    .executable(name: "ultrac", targets: ["ultrac"]),
    .executable(name: "golden-runner", targets: ["golden-runner"]),
    .library(name: "UltraRuntime", targets: ["UltraRuntime"]),
    .library(name: "UltraCompiler", targets: ["Driver"]),
  ],
  dependencies: [
    .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.0")
  ],
  targets: [
    // Ground floor first; a target depends only on targets above it in this list.
    .target(name: "TensorIR", path: "ir/Tensor"),
    .target(name: "TileIR", dependencies: ["TensorIR"], path: "ir/Tile"),
    .target(name: "Interpreter", dependencies: ["TensorIR", "TileIR"]),
    .target(name: "Passes", dependencies: ["TensorIR", "TileIR"], path: "passes"),
    .target(name: "ModelFormat", dependencies: ["TensorIR"]),
    .target(name: "GoldenCases", dependencies: ["TensorIR", "Passes", "ModelFormat"]),
    // The C contract of an artifact, and the small C helper beside it: threads, checksums.
    .target(name: "CUltra", path: "include", publicHeadersPath: "."),
    .target(name: "CLLVM"),
    .target(name: "CFFI"),
    .target(name: "LLVMKit", dependencies: ["CLLVM"]),
    .target(name: "Codegen", dependencies: ["TileIR", "TensorIR", "LLVMKit"]),
    .target(name: "Artifact", dependencies: ["CUltra"]),
    .target(name: "UltraRuntime", dependencies: ["Artifact", "CFFI", "CUltra"]),
    .target(
      name: "Driver",
      dependencies: [
        "TensorIR", "TileIR", "Interpreter", "Passes", "ModelFormat", "CUltra", "LLVMKit", "Codegen", "Artifact",
        "UltraRuntime",
      ]),
    .executableTarget(
      name: "ultrac",
      dependencies: [
        "TensorIR", "Passes", "ModelFormat", "Artifact", "Driver", "UltraRuntime",
        .product(name: "ArgumentParser", package: "swift-argument-parser"),
      ]),
    .executableTarget(
      name: "golden-runner",
      dependencies: [
        "TensorIR", "Interpreter", "Passes", "ModelFormat", "GoldenCases", "Artifact", "Driver", "UltraRuntime",
        .product(name: "ArgumentParser", package: "swift-argument-parser"),
      ]),
    .target(name: "TestSupport", dependencies: ["TensorIR", "Interpreter"], path: "Tests/Support"),
    .testTarget(name: "TensorIRTests", dependencies: ["TensorIR", "TestSupport"], exclude: ["Fixtures"]),
    .testTarget(
      name: "TileIRTests", dependencies: ["TileIR", "Interpreter", "Passes", "TestSupport"], exclude: ["Fixtures"]),
    .testTarget(name: "InterpreterTests", dependencies: ["Interpreter", "ModelFormat", "TestSupport"]),
    .testTarget(
      name: "PassesTests", dependencies: ["Passes", "Interpreter", "TestSupport"], exclude: ["Fixtures"]),
    .testTarget(
      name: "ModelFormatTests", dependencies: ["ModelFormat", "GoldenCases", "Interpreter", "TestSupport"],
      exclude: ["Models"]),
    .testTarget(name: "CodegenTests", dependencies: ["Codegen", "LLVMKit", "TestSupport"]),
    // An artifact written in C, for tests of the format and of the runtime without the compiler.
    .target(
      name: "ArtifactFixture", dependencies: ["Artifact"], path: "Tests/ArtifactFixture",
      exclude: ["cpus_test.c", "model.c", "pool_sleep_test.c", "pool_test.c"]),
    .testTarget(name: "ArtifactTests", dependencies: ["Artifact", "ArtifactFixture", "CUltra"]),
    .testTarget(name: "UltraRuntimeTests", dependencies: ["UltraRuntime", "ArtifactFixture"]),
    // Kernels of GPUs on the processor, thread by thread.
    .target(name: "Fibers", path: "Tests/Fibers"),
    .target(name: "GPUEmulator", dependencies: ["Fibers", "LLVMKit"], path: "Tests/GPUEmulator"),
    .testTarget(
      name: "DriverTests",
      dependencies: [
        "CUltra", "GPUEmulator", "Driver", "UltraRuntime", "Artifact", "Codegen", "GoldenCases", "Interpreter",
        "LLVMKit", "ModelFormat", "Passes", "TestSupport", "TileIR", "ultrac",
      ], exclude: ["call.c", "driver.c"]),
  ]
)
