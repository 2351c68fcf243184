import Passes
import TensorIR
import Testing

private enum Form: String, CaseIterable { case tail, prefix }

private struct SampleOptions: PassOptions {
  var keep = 7
  var ratio = 0.5
  var form = Form.tail
  var loud = false

  static var list: [PassOption<SampleOptions>] {
    [
      .integer("keep", \.keep, in: 1...100, summary: "rows to keep"),
      .number("ratio", \.ratio, summary: "a ratio"),
      .word("form", \.form, summary: "a form"),
      .flag("loud", \.loud, summary: "whether to say so"),
    ]
  }
}

private let sample = ModulePass(
  name: "sample", summary: "says what it was given", options: SampleOptions.self, exactness: .approximate
) { (_, options, context) throws(PassError) in
  context.note("\(options.keep) \(options.ratio) \(options.form) \(options.loud)")
}

/// Renames nothing, but leaves the last operation twice in the body.
private let breaking = ModulePass(
  name: "breaking", summary: "breaks the module", options: NoOptions.self, exactness: .exact
) { (module, _, _) throws(PassError) in
  for index in module.functions.indices {
    if let last = module.functions[index].body.last { module.functions[index].body.append(last) }
  }
}

private let failing = ModulePass(
  name: "failing", summary: "fails", options: NoOptions.self, exactness: .exact
) { (module, _, _) throws(PassError) in
  module.name = "half done"
  throw PassError("no such thing")
}

private let source = """
  module m

  func @forward(%x: tensor<rows x 4 x f32>) -> (out: tensor<rows x 4 x f32>) {
    %a = silu %x : tensor<rows x 4 x f32>
    %b = silu %x : tensor<rows x 4 x f32>
    return %b
  }

  """

@Suite("Pass manager")
struct PassManagerTests {
  private func notes(_ settings: [PassSetting]) throws -> [String] {
    var module = Module(name: "m")
    return try PassManager(PassPipeline([PassPipeline.Step(sample, settings)])).run(on: &module)[0].notes
  }

  @Test func readsOptionsByTheirTypes() throws {
    #expect(try notes([]) == ["7 0.5 tail false"])
    #expect(
      try notes([
        PassSetting(name: "keep", value: "12"), PassSetting(name: "ratio", value: "1e-3"),
        PassSetting(name: "form", value: "prefix"), PassSetting(name: "loud", value: "true"),
      ]) == ["12 0.001 prefix true"])
  }

  @Test(
    "options that do not fit are refused",
    arguments: [
      ("keep", "0", "sample: keep: expected a whole number from 1 to 100, found \"0\""),
      ("keep", "many", "sample: keep: expected a whole number from 1 to 100, found \"many\""),
      ("ratio", "inf", "sample: ratio: expected a number, found \"inf\""),
      ("form", "head", "sample: form: expected tail or prefix, found \"head\""),
      ("loud", "yes", "sample: loud: expected true or false, found \"yes\""),
      ("keeps", "1", "sample: unknown option \"keeps\"; it has keep, ratio, form, loud"),
    ])
  func refusesOptions(name: String, value: String, message: String) {
    let error = #expect(throws: PassError.self) {
      try PassPipeline.Step(sample, [PassSetting(name: name, value: value)])
    }
    #expect(error?.description == message)
  }

  @Test func refusesAnOptionTwice() {
    let setting = PassSetting(name: "keep", value: "2")
    let error = #expect(throws: PassError.self) { try PassPipeline.Step(sample, [setting, setting]) }
    #expect(error?.description == "sample: the option \"keep\" is given twice")
  }

  @Test(
    "pipelines are read and written",
    arguments: [
      ("", ""), ("  ", ""), ("dce", "dce"), ("cse , dce{}", "cse,dce"),
      ("canonicalize,cse,dce", "canonicalize,cse,dce"),
    ])
  func readsPipelines(text: String, canonical: String) throws {
    let pipeline = try PassPipeline(parsing: text)
    #expect(pipeline.description == canonical)
    #expect(try PassPipeline(parsing: canonical).description == canonical)
  }

  @Test(
    "pipelines that make no sense are refused with their column",
    arguments: [
      (
        "dse",
        "there is no pass \"dse\"; known are canonicalize, cse, dce, fold-weights, semi-local-attention, "
          + "attention-truncation, cached-scoring, lower-precision, prune-demand, fuse"
      ),
      ("dce,", "pass pipeline, column 5: expected a pass, found the end"),
      ("dce cse", "pass pipeline, column 5: expected \",\" or the end, found \"c\""),
      (",dce", "pass pipeline, column 1: expected a pass, found \",\""),
      ("dce{", "pass pipeline, column 5: expected an option, key=value, found the end"),
      ("dce{a}", "pass pipeline, column 6: expected \"=\", found \"}\""),
      ("dce{a=}", "pass pipeline, column 7: expected a value, found \"}\""),
      ("dce{a=1", "pass pipeline, column 8: expected \",\" or \"}\", found the end"),
      ("dce{a=1}", "dce: unknown option \"a\"; it has none"),
      ("dce{a=1}}", "dce: unknown option \"a\"; it has none"),
      ("dce}", "pass pipeline, column 4: expected \",\" or the end, found \"}\""),
    ])
  func refusesPipelines(text: String, message: String) {
    let error = #expect(throws: PassError.self) { try PassPipeline(parsing: text) }
    #expect(error?.description == message)
  }

  @Test func levelsRunExactPassesOnly() {
    #expect(PassPipeline(level: 0).steps.isEmpty)
    for level in -1...4 {
      #expect(PassPipeline(level: level).steps.allSatisfy { $0.pass.exactness == .exact })
    }
    #expect(PassPipeline(level: 1).description == "canonicalize,cse,dce")
    #expect(
      PassPipeline(level: 2).description == "canonicalize,cse,dce,fold-weights,prune-demand,canonicalize,dce,fuse")
  }

  @Test func namesAreUnique() {
    #expect(Set(ModulePass.all.map(\.name)).count == ModulePass.all.count)
  }

  @Test func reportsWhatEachPassDid() throws {
    var module = try TensorIRParser.parse(source)
    var observed: [String] = []
    var printed: [String] = []
    var manager = PassManager(try PassPipeline(parsing: "cse,dce"))
    manager.printsAfter = try PassSelection(["dce"])
    let reports = try manager.run(
      on: &module, print: { printed.append($0) },
      observe: { observed.append("\($0.pass) \($1.functions[0].body.count)") })
    #expect(observed == ["cse 1", "dce 1"])
    #expect(reports.map(\.step) == ["cse", "dce"])
    #expect(reports.map(\.notes) == [["1 operation merged with an earlier one"], []])
    #expect(reports.map(\.operationsBefore) == [2, 1])
    #expect(reports.map(\.operationsAfter) == [1, 1])
    #expect(reports.allSatisfy { $0.time >= .zero && $0.exactness == .exact })
    #expect(printed == ["// After dce\n" + module.text])
    // What is printed can be read back.
    #expect(try TensorIRParser.parse(printed[0]).text == module.text)
  }

  @Test func selectionsNamePasses() throws {
    #expect(try PassSelection(["all"]).contains("dce"))
    #expect(try !PassSelection(["cse"]).contains("dce"))
    #expect(!PassSelection.none.contains("dce"))
    #expect(throws: PassError.self) { try PassSelection(["dse"]) }
  }

  @Test func blamesThePassThatBreaksTheModule() throws {
    var module = try TensorIRParser.parse(source, file: "m.tir")
    var manager = PassManager(PassPipeline([breaking, sample]))
    manager.verifiesEach = true
    let error = #expect(throws: PassError.self) { try manager.run(on: &module) }
    #expect(error?.pass == "breaking")
    #expect(
      error?.message == "left a module that is not valid: m.tir:5:8: in @forward: %b = silu: is in the body twice")
    #expect(module.text == source)
    // The reproducer begins with what was verified last, and ends with the pass at fault.
    #expect(error?.reproducer == Reproducer(program: source, passes: "breaking"))
    manager.verifiesEach = false
    let late = #expect(throws: PassError.self) { try manager.run(on: &module) }
    #expect(late?.pass == "sample")
    #expect(late?.reproducer == Reproducer(program: source, passes: "breaking,sample"))
  }

  @Test func leavesTheModuleWhereAPassFails() throws {
    var module = try TensorIRParser.parse(source)
    let error = #expect(throws: PassError.self) { try PassManager(PassPipeline([failing])).run(on: &module) }
    #expect(error?.description == "failing: no such thing")
    #expect(module.text == source)
  }

  @Test("a reproducer is the program that the failing pass got, with its options")
  func reproducesAFailure() throws {
    var module = try TensorIRParser.parse(source)
    let steps = [
      try PassPipeline.Step(eliminateCommonSubexpressions),
      try PassPipeline.Step(attentionTruncation, [.init(name: "after", value: "2"), .init(name: "keep", value: "8")]),
      try PassPipeline.Step(eliminateDeadCode),
    ]
    let error = #expect(throws: PassError.self) { try PassManager(PassPipeline(steps)).run(on: &module) }
    let reproducer = try #require(error?.reproducer)
    #expect(reproducer.passes == "attention-truncation{after=2,keep=8}")
    var again = try TensorIRParser.parse(reproducer.program)
    #expect(again.functions[0].body.count == 1)
    let same = #expect(throws: PassError.self) {
      try PassManager(PassPipeline(parsing: reproducer.passes)).run(on: &again)
    }
    #expect(same == error)
  }

  @Test func whoLooksOnMayEndTheRun() throws {
    struct Enough: Error {}
    var module = try TensorIRParser.parse(source)
    #expect(throws: Enough.self) {
      try PassManager(PassPipeline(parsing: "cse,dce")).run(on: &module, observe: { _, _ in throw Enough() })
    }
    #expect(module.text == source)
  }

  @Test func verifiesAfterEveryPassUnlessToldOtherwise() {
    #expect(PassManager(PassPipeline()).verifiesEach)
  }

  @Test func refusesAModuleThatIsNotValid() throws {
    var module = try TensorIRParser.parse(source)
    module.functions[0].body.reverse()
    module.functions[0].body.append(module.functions[0].body[0])
    let error = #expect(throws: PassError.self) { try PassManager(PassPipeline()).run(on: &module) }
    #expect(error?.message.hasPrefix("the module is not valid: ") == true)
  }
}
