import Foundation
import GoldenCases

/// The folder of this file.
let testsFolder = URL(fileURLWithPath: #filePath).deletingLastPathComponent()

/// The folder of the golden cases.
let goldenFolder = testsFolder.deletingLastPathComponent().appendingPathComponent("Golden").path

func goldenCaseNames() throws -> [String] {
  GoldenCase.names(amongFiles: try FileManager.default.contentsOfDirectory(atPath: goldenFolder))
}

/// The folder of cases that Tests/RankingCases/make_cases.py computes.
let rankingFolder = testsFolder.deletingLastPathComponent().appendingPathComponent("RankingCases").path

func rankingCaseNames() throws -> [String] {
  GoldenCase.names(amongFiles: try FileManager.default.contentsOfDirectory(atPath: rankingFolder))
}

/// The text of a file beside the sources, by its path from the root of the repository.
func repositoryText(_ path: String) throws -> String {
  let root = testsFolder.deletingLastPathComponent().deletingLastPathComponent()
  return try String(contentsOf: root.appendingPathComponent(path), encoding: .utf8)
}
