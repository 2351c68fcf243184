import Artifact
import Codegen
import Driver
import Foundation
import ModelFormat
import TensorIR
import TestSupport
import Testing

/// A compilation that fails leaves no file, nor a part of one, and one that succeeds leaves nothing but its file.
@Suite struct OutputFileTests {
  private static let model = Shared { try RobustModel.everyCheck() }
  /// Weights are written after the code: what fails there fails in the middle of the file.
  private static let lastWeight = "layers.1._o.bias"

  private func backend() throws -> Backend {
    var backend = try Self.model.get().backend
    backend.levels = [.avx2]
    backend.optimization = .none
    return backend
  }

  private func files(in folder: URL) throws -> [String] {
    try FileManager.default.contentsOfDirectory(atPath: folder.path).sorted()
  }

  /// Compiles with these weights; the error's text.
  private func failure(_ weights: WeightTable, to path: String) throws -> String {
    let error = try #require(
      #expect(throws: ArtifactError.self) {
        try backend().compile(Self.model.get().module, weights: weights, to: path)
      })
    return error.description
  }

  @Test func weightsThatAreMissingOrOfAnotherShape() throws {
    try withTemporaryFolder { folder in
      let path = folder.appendingPathComponent("model.ultra").path
      let good = try Self.model.get().weights
      let elsewhere = try HostTensor(element: .f64, shape: [4], bytes: [UInt8](repeating: 0, count: 32))
      for tensor in [nil, HostTensor([1, 2] as [Float]), HostTensor([] as [Float]), elsewhere] {
        var weights = good
        weights.tensors[Self.lastWeight] = tensor
        let text = try failure(weights, to: path)
        #expect(text.hasPrefix("\(path): weight \"\(Self.lastWeight)\""), "\(text)")
        #expect(try files(in: folder).isEmpty)
      }
      // What stood there before still does.
      try "old".write(toFile: path, atomically: true, encoding: .utf8)
      var weights = good
      weights.tensors[Self.lastWeight] = nil
      _ = try failure(weights, to: path)
      #expect(try files(in: folder) == ["model.ultra"])
      #expect(try String(contentsOfFile: path, encoding: .utf8) == "old")
      try backend().compile(Self.model.get().module, weights: good, to: path)
      #expect(try files(in: folder) == ["model.ultra"])
      #expect(try ArtifactReader.open(path, verify: .full).manifest.model.name == "every_check")
    }
  }

  @Test func placesThatCannotBeWritten() throws {
    try withTemporaryFolder { folder in
      let file = folder.appendingPathComponent("file").path
      try "old".write(toFile: file, atomically: true, encoding: .utf8)
      let inner = folder.appendingPathComponent("inner")
      try FileManager.default.createDirectory(at: inner, withIntermediateDirectories: true)
      for path in [
        folder.path + "/missing/model.ultra", file + "/model.ultra", inner.path, folder.path + "/",
        "/proc/model.ultra", "/dev/full/model.ultra",
      ] {
        let text = try failure(try Self.model.get().weights, to: path)
        #expect(text.hasPrefix("\(path): cannot be written: "), "\(text)")
      }
      #expect(try files(in: folder) == ["file", "inner"])
      #expect(try files(in: inner).isEmpty)
      #expect(try String(contentsOfFile: file, encoding: .utf8) == "old")
    }
  }

  /// Who may write a folder, as root may /dev, could replace what is in it by renaming: a pipe stands for devices here.
  @Test func pipesAndDevicesAreNotReplaced() throws {
    try withTemporaryFolder { folder in
      let pipe = folder.appendingPathComponent("pipe").path
      try #require(mkfifo(pipe, 0o600) == 0)
      let link = folder.appendingPathComponent("link").path
      try FileManager.default.createSymbolicLink(atPath: link, withDestinationPath: "pipe")
      for path in [pipe, link] {
        let sentence = "\(path): cannot be written: it is there and not a regular file"
        #expect(try failure(try Self.model.get().weights, to: path) == sentence)
        let tensors = #expect(throws: ModelError.self) {
          try Safetensors.write([("x", HostTensor([1] as [Float]))], to: path)
        }
        #expect(tensors?.description == sentence)
        let text = #expect(throws: ArtifactError.self) { try writeFile([65], to: path) }
        #expect(text?.description == sentence)
      }
      #expect(try files(in: folder) == ["link", "pipe"])
      var status = stat()
      #expect(stat(pipe, &status) == 0 && status.st_mode & S_IFMT == S_IFIFO)
    }
  }

  /// Runs the command in a folder, by a shell that first does what `setting` says.
  private func compile(in folder: URL, after setting: String, temporary: URL) throws -> (status: Int32, errors: String)
  {
    let process = Process()
    let tests = URL(fileURLWithPath: CommandLine.arguments[0]).resolvingSymlinksInPath()
    process.executableURL = URL(fileURLWithPath: "/bin/sh")
    let command = tests.deletingLastPathComponent().appendingPathComponent("ultrac").path
    process.arguments = ["-c", "\(setting); exec \"$0\" compile model.json --target-cpu x86-64-v3", command]
    process.currentDirectoryURL = folder
    var environment = ProcessInfo.processInfo.environment
    environment["TMPDIR"] = temporary.path
    process.environment = environment
    let errors = Pipe()
    process.standardError = errors
    process.standardOutput = FileHandle.nullDevice
    try process.run()
    let text = String(decoding: errors.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    process.waitUntilExit()
    return (process.terminationStatus, text)
  }

  @Test(
    arguments: [
      ("PATH=/nowhere", "no linker for x86_64 on the PATH"),
      ("PATH=", "no linker for x86_64 on the PATH"),
      // A disk that fills up, at the first file and after the linker's: blocks of 512 bytes.
      ("trap '' XFSZ; ulimit -f 1", "File too large"),
      ("trap '' XFSZ; ulimit -f 60", "File too large"),
    ])
  func whatTheCommandLacks(setting: String, message: String) throws {
    try withTemporaryFolder { folder in
      let temporary = folder.appendingPathComponent("temporary")
      try FileManager.default.createDirectory(at: temporary, withIntermediateDirectories: true)
      let model = folder.appendingPathComponent("model")
      _ = try ModelFolder(model)
      let before = try files(in: model)
      let outcome = try compile(in: model, after: setting, temporary: temporary)
      #expect(outcome.status == 1)
      #expect(outcome.errors.hasPrefix("error: ") && outcome.errors.contains(message), "\(outcome.errors)")
      #expect(try files(in: model) == before)
      #expect(try files(in: temporary).isEmpty, "the linker's files")
    }
  }
}
