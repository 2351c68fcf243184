import ArgumentParser

/// What commands that run passes take.
struct PassArguments: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      "Passes to run instead of the usual ones: names with commas between, options in braces, as in a,b{x=1}.",
      valueName: "pipeline"))
  var passes: String?

  @Option(
    name: .customLong("print-ir-after"), parsing: .singleValue,
    help: ArgumentHelp(
      "Print the program to standard error after this pass, or after all; may be given several times.",
      valueName: "pass"))
  var printIRAfter: [String] = []

  @Flag(help: "Verify the program after every pass, not only after the last.")
  var verifyEach = false

  @Flag(help: "Report the time of every step.")
  var timePasses = false

  @Option(
    name: .customLong("dump-phases-to"),
    help: ArgumentHelp(
      "Write the program after each phase into this folder: 00-import.tir, 01-canonicalize.tir and so on.",
      valueName: "folder"), completion: .directory)
  var dumpFolder: String?

  @Option(
    help: ArgumentHelp(
      """
      Where to write what shows the failure of a pass again, a program with the command in it; beside the output, or in \
      the working folder, otherwise.
      """, valueName: "file"))
  var reproducer: String?
}
