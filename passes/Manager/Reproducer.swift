/// What shows the failure of a pass again: a program, and the passes to run on it.
public struct Reproducer: Hashable, Sendable {
  /// The last valid program before the failure, in its text form.
  public var program: String
  /// The passes from there to the one that failed, as after `--passes`. With verification after each they name the
  /// one at fault.
  public var passes: String

  /// These passes fail on this program.
  public init(program: String, passes: String) {
    self.program = program
    self.passes = passes
  }
}
