import Foundation

/// Where the artifacts of a run are: a folder of the user's, or one that is removed at the end.
struct ArtifactFolder {
  private let url: URL
  private let isTemporary: Bool

  init(kept path: String?) throws {
    isTemporary = path == nil
    url =
      path.map { URL(fileURLWithPath: $0, isDirectory: true) }
      ?? FileManager.default.temporaryDirectory.appendingPathComponent("golden-runner-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: url, withIntermediateDirectories: true)
  }

  func path(of caseName: String) -> String { url.appendingPathComponent("\(caseName).ultra").path }

  /// Removes a temporary folder. What cannot be removed is left to the system's own cleaning.
  func remove() {
    if isTemporary { try? FileManager.default.removeItem(at: url) }
  }
}
