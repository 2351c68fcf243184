import Artifact
import Passes

extension Reproducer {
  /// The ending of reproducers that are not named by their user.
  public static let fileEnding = "reproducer.tir"

  /// What `body` gives. Where a pass fails in it, what shows the failure again is written to `path`, and the error that is
  /// thrown names the file; without a path nothing is written.
  public static func writing<Result>(to path: String?, _ body: () throws -> Result) throws -> Result {
    do {
      return try body()
    } catch let error as PassError {
      guard let path, let reproducer = error.reproducer else { throw error }
      do {
        try writeFile(Array(reproducer.text(of: error, at: path).utf8), to: path)
      } catch let fault {
        throw DriverError("\(error)", hint: "a reproducer would show it again, but \(fault)")
      }
      throw DriverError("\(error)", hint: "\(path) holds the program and the command that show it again")
    }
  }

  /// The file: a program in text form, below a comment that says what fails and how to see it.
  private func text(of error: PassError, at path: String) -> String {
    let lines = "\(error)".split(separator: "\n", omittingEmptySubsequences: false)
    let command = "ultrac opt \(Self.quoted(path)) --passes \(Self.quoted(passes)) --verify-each"
    return """
      // A pass failed on this program, in ultrac \(compilerVersion):
      \(lines.map { "//   \($0)" }.joined(separator: "\n"))
      // To see it again:
      //   \(command)
      \(program)
      """
  }

  /// The word as a shell reads it back.
  private static func quoted(_ word: String) -> String {
    let plain = word.utf8.allSatisfy { byte in
      switch UInt8(byte) {
      case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
        UInt8(ascii: "0")...UInt8(ascii: "9"):
        true
      default: "-_./".utf8.contains(byte)
      }
    }
    return plain && !word.isEmpty ? word : "'\(word.replacing("'", with: #"'\''"#))'"
  }
}
