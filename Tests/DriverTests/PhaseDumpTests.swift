import Driver
import Foundation
import TensorIR
import TestSupport
import Testing

/// `--dump-phases-to` and reproducers, as a user meets them.
@Suite struct PhaseDumpTests {
  private func files(in folder: URL) throws -> [String] {
    try FileManager.default.contentsOfDirectory(atPath: folder.path).sorted()
  }

  private func text(_ name: String, in folder: URL) throws -> String {
    try String(contentsOf: folder.appendingPathComponent(name), encoding: .utf8)
  }

  @Test func compileDumpsEveryPhase() throws {
    try withTemporaryFolder { folder in
      _ = try ModelFolder(folder)
      #expect(try ultrac("compile", "model.json", "-o", "plain.ultra", "-O1", in: folder).status == 0)
      let outcome = try ultrac(
        "compile", "model.json", "-o", "dumped.ultra", "-O1", "--dump-phases-to", "a/b", in: folder)
      #expect(outcome.status == 0 && outcome.errors.isEmpty)
      let dump = folder.appendingPathComponent("a/b")
      #expect(
        try files(in: dump) == [
          "00-import.tir", "01-canonicalize.tir", "02-cse.tir", "03-dce.tir", "04-to-tiles.tile", "05-code.ll",
          "06-assembly.s",
        ])
      // Looking on changes nothing.
      let artifacts = try ["plain.ultra", "dumped.ultra"].map {
        try Data(contentsOf: folder.appendingPathComponent($0))
      }
      #expect(artifacts[0] == artifacts[1])
      let imported = try ultrac("compile", "model.json", "-O0", "--emit", "tensor-ir", in: folder).output
      #expect(try text("00-import.tir", in: dump) == imported)
      let rewritten = try ultrac("opt", "a/b/00-import.tir", "--passes", "canonicalize,cse,dce", in: folder)
      #expect(try text("03-dce.tir", in: dump) == rewritten.output)
      #expect(try text("05-code.ll", in: dump).contains("define"))
      #expect(try text("06-assembly.s", in: dump).contains("vfmadd"))
    }
  }

  @Test func optDumpsEveryPhaseThatWasReached() throws {
    try withTemporaryFolder { folder in
      _ = try ModelFolder(folder)
      let outcome = try ultrac(
        "compile", "model.json", "--emit", "tensor-ir", "--passes", "dce", "--dump-phases-to", "d", in: folder)
      #expect(outcome.status == 0)
      #expect(try files(in: folder.appendingPathComponent("d")) == ["00-import.tir", "01-dce.tir"])
      let failed = try ultrac(
        "opt", "d/01-dce.tir", "--passes", "cse,attention-truncation{after=2,keep=1},dce", "--dump-phases-to", "e",
        in: folder)
      #expect(failed.status == 1)
      #expect(try files(in: folder.appendingPathComponent("e")) == ["00-import.tir", "01-cse.tir"])
    }
  }

  @Test func aFolderThatCannotBeMadeIsNamed() throws {
    try withTemporaryFolder { folder in
      _ = try ModelFolder(folder)
      let onFile = try ultrac("compile", "model.json", "--dump-phases-to", "model.json", in: folder)
      #expect(onFile.errors == "error: \"model.json\": expected a folder for the dumps of phases\n")
      let below = try ultrac("compile", "model.json", "--dump-phases-to", "model.json/dump", in: folder)
      #expect(below.errors == "error: model.json/dump: the folder cannot be made: Not a directory\n")
      // Nothing was read and nothing written.
      #expect(try files(in: folder) == ["model.json", "weights.safetensors"])
    }
  }

  private static let bad = "cse,attention-truncation{after=9,keep=4},dce"
  private static let message =
    #"attention-truncation: @forward: after: expected a whole number from 0 to 1, found "9""#

  @Test func aPassThatFailsLeavesAReproducer() throws {
    try withTemporaryFolder { folder in
      _ = try ModelFolder(folder)
      let failed = try ultrac("compile", "model.json", "-o", "out.v2.ultra", "--passes", Self.bad, in: folder)
      #expect(failed.status == 1 && failed.output.isEmpty)
      #expect(
        failed.errors == """
          error: \(Self.message)
          hint: out.v2.reproducer.tir holds the program and the command that show it again

          """)
      // No artifact, and nothing half written.
      #expect(try files(in: folder) == ["model.json", "out.v2.reproducer.tir", "weights.safetensors"])
      let reproducer = try text("out.v2.reproducer.tir", in: folder)
      let lines = reproducer.split(separator: "\n").map(String.init)
      #expect(lines[0] == "// A pass failed on this program, in ultrac \(compilerVersion):")
      #expect(lines[1] == "//   \(Self.message)")
      #expect(lines[2] == "// To see it again:")
      let command = String(lines[3].dropFirst(5))
      #expect(
        command == "ultrac opt out.v2.reproducer.tir --passes 'attention-truncation{after=9,keep=4}' --verify-each")
      let program = try ultrac("compile", "model.json", "--passes", "cse", "--emit", "tensor-ir", in: folder).output
      #expect(lines[4...].joined(separator: "\n") == program.split(separator: "\n").joined(separator: "\n"))

      let again = try shell(command, in: folder)
      #expect(again == "error: \(Self.message)\n")
      #expect(try text("out.v2.reproducer.tir", in: folder) == reproducer)
    }
  }

  /// What the command, as a shell reads it, writes to standard error.
  private func shell(_ command: String, in folder: URL) throws -> String {
    let process = Process()
    let tests = URL(fileURLWithPath: CommandLine.arguments[0]).resolvingSymlinksInPath().deletingLastPathComponent()
    process.executableURL = URL(fileURLWithPath: "/bin/sh")
    process.arguments = ["-c", "PATH='\(tests.path)':$PATH; \(command)"]
    process.currentDirectoryURL = folder
    let errors = Pipe()
    process.standardError = errors
    process.standardOutput = FileHandle.nullDevice
    try process.run()
    let data = errors.fileHandleForReading.readDataToEndOfFile()
    process.waitUntilExit()
    return String(decoding: data, as: UTF8.self)
  }

  @Test func reproducersGoBesideTheOutputOrWhereTheyAreAskedFor() throws {
    try withTemporaryFolder { folder in
      let inner = folder.appendingPathComponent("in")
      _ = try ModelFolder(inner)
      func hint(_ arguments: String...) throws -> String {
        let process = try ultrac(arguments + ["--passes", Self.bad], in: folder)
        #expect(process.status == 1)
        return String(process.errors.split(separator: "\n").last?.split(separator: " ")[1] ?? "")
      }
      #expect(try hint("compile", "in/model.json") == "in/model.reproducer.tir")
      #expect(try hint("compile", "in/model.json", "-o", "in/x") == "in/x.reproducer.tir")
      #expect(try hint("compile", "in/model.json", "--emit", "tile-ir") == "model.reproducer.tir")
      #expect(try hint("compile", "in/model.json", "--reproducer", "r.tir") == "r.tir")
      let program = try ultrac("compile", "in/model.json", "--emit", "tensor-ir", in: folder).output
      try program.write(to: inner.appendingPathComponent("p.tir"), atomically: true, encoding: .utf8)
      #expect(try hint("opt", "in/p.tir") == "p.reproducer.tir")
      #expect(try hint("opt", "in/p.tir", "--reproducer", "in/of p.tir").hasPrefix("in/of"))
      // A name with a blank is quoted in the command.
      let command = try #require(try text("of p.tir", in: inner).split(separator: "\n").dropFirst(3).first)
      #expect(try shell(String(command.dropFirst(5)), in: folder).hasPrefix("error: \(Self.message)\n"))
      // One that cannot be written does not hide what failed.
      let lost = try ultrac("opt", "in/p.tir", "--passes", Self.bad, "--reproducer", "no/where.tir", in: folder)
      #expect(
        lost.errors.hasPrefix("error: \(Self.message)\nhint: a reproducer would show it again, but no/where.tir:"))
    }
  }

  @Test func errorsOfTheCommandLineLeaveNone() throws {
    try withTemporaryFolder { folder in
      _ = try ModelFolder(folder)
      for passes in ["dse", "dce{a=1}", "attention-truncation{after=1}"] {
        #expect(try ultrac("compile", "model.json", "--passes", passes, in: folder).status == 1)
      }
      #expect(try files(in: folder) == ["model.json", "weights.safetensors"])
    }
  }
}
