import Glibc

/// What goes to standard error beside results: errors, and progress where a person is watching.
enum Terminal {
  static func printError(_ text: String) {
    // One write a message: messages of parallel commands do not mix.
    let bytes = Array((text + "\n").utf8)
    _ = write(STDERR_FILENO, bytes, bytes.count)
  }

  /// Shows what is being done, on a line that the next one replaces; nothing where standard error is a file or a pipe.
  static func showProgress(_ step: String) {
    guard isatty(STDERR_FILENO) == 1 else { return }
    let bytes = Array("\r\u{1B}[K\(step) ...".utf8)
    _ = write(STDERR_FILENO, bytes, bytes.count)
  }

  /// Takes the line of progress away.
  static func endProgress() {
    guard isatty(STDERR_FILENO) == 1 else { return }
    _ = write(STDERR_FILENO, "\r\u{1B}[K", 4)
  }
}
