import Driver
import Glibc
import Synchronization

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

  /// Shows how far a long step has come, in the same place; often enough to be seen to move.
  static func showProgress(_ progress: Progress) {
    let isLast = progress.done == progress.total
    let now = ContinuousClock.now
    guard isatty(STDERR_FILENO) == 1, isLast || now - lastShown.withLock(\.self) > .milliseconds(100) else {
      return
    }
    lastShown.withLock { $0 = now }
    let bytes = Array("\r\u{1B}[K\(progress.line)".utf8)
    _ = write(STDERR_FILENO, bytes, bytes.count)
  }

  private static let lastShown = Mutex(ContinuousClock.now)

  /// Takes the line of progress away.
  static func endProgress() {
    guard isatty(STDERR_FILENO) == 1 else { return }
    _ = write(STDERR_FILENO, "\r\u{1B}[K", 4)
  }
}
