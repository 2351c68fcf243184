import TensorIR

/// What one pass did, for the compile report and for `--time-passes`.
public struct PassReport: Sendable {
  /// The pass with its options, as on the command line.
  public var step: String
  /// The pass's name.
  public var pass: String
  /// Whether the pass keeps results bit for bit.
  public var exactness: Exactness
  /// What the pass says that it did.
  public var notes: [String]
  /// Operations of all functions before and after.
  public var operationsBefore: Int
  /// Operations of all functions after the pass.
  public var operationsAfter: Int
  /// Of the pass itself, without verification.
  public var time: Duration
}

/// Passes that `--print-ir-after` names.
public struct PassSelection: Hashable, Sendable {
  private var names: Set<String>

  /// No pass.
  public static let none = PassSelection()
  private init() { names = [] }

  /// Names of passes, or "all". Throws where there is no such pass.
  public init(_ names: [String]) throws(PassError) {
    for name in names where name != "all" { _ = try ModulePass.named(name) }
    self.names = Set(names)
  }

  /// Whether the pass of this name is among them.
  public func contains(_ pass: String) -> Bool { names.contains("all") || names.contains(pass) }
}

/// Runs a pipeline on a module and says what each pass did.
public struct PassManager: Sendable {
  /// The passes to run, in order.
  public var pipeline: PassPipeline
  /// Whether the module is verified after every pass, not only before the first and after the last.
  public var verifiesEach: Bool
  /// The passes after which the module is handed to `print`.
  public var printsAfter = PassSelection.none

  /// Verifies after every pass unless told otherwise.
  public init(_ pipeline: PassPipeline) {
    self.pipeline = pipeline
    verifiesEach = true
  }

  /// Runs the passes in their order. `print` gets the module's text after the passes of `printsAfter`, with a line that
  /// names the pass; `observe` gets every pass's report with the module that it left, and may end the run.
  ///
  /// Throws `PassError` where a pass fails, or where the module is not valid, before or after, and what `observe` throws;
  /// `module` is then as it was.
  @discardableResult
  public func run(
    on module: inout Module, print: (String) -> Void = { _ in },
    observe: (PassReport, Module) throws -> Void = { _, _ in }
  ) throws -> [PassReport] {
    do { try module.verify() } catch { throw PassError("the module is not valid: \(error)") }
    var result = module
    // The module that was verified last, and the first step after that.
    var verified = (module: module, step: 0)
    var reports: [PassReport] = []
    let clock = ContinuousClock()
    for (index, step) in pipeline.steps.enumerated() {
      let given = result
      func failure(_ message: String) -> PassError {
        // This step alone fails, unless an earlier one left what it cannot be blamed for.
        if (try? given.verify()) != nil { verified = (given, index) }
        let passes = PassPipeline(Array(pipeline.steps[verified.step...index]))
        return PassError(
          message, pass: step.pass.name,
          reproducer: Reproducer(program: verified.module.text, passes: passes.description))
      }
      var context = PassContext()
      let before = result.operationCount
      let start = clock.now
      do { try step.body(&result, &context) } catch { throw failure(error.message) }
      let report = PassReport(
        step: step.description, pass: step.pass.name, exactness: context.exactness ?? step.pass.exactness,
        notes: context.notes,
        operationsBefore: before, operationsAfter: result.operationCount, time: clock.now - start)
      if printsAfter.contains(report.pass) { print("// After \(step)\n" + result.text) }
      if verifiesEach || index == pipeline.steps.count - 1 {
        do { try result.verify() } catch { throw failure("left a module that is not valid: \(error)") }
        verified = (result, index + 1)
      }
      reports.append(report)
      try observe(report, result)
    }
    module = result
    return reports
  }
}

extension Module {
  fileprivate var operationCount: Int { functions.reduce(0) { $0 + $1.body.count } }
}
