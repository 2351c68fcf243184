import Interpreter
import Passes
import TensorIR
import TestSupport
import Testing

/// Writes a function anew with work that changes nothing: what exact passes are there to find.
private struct RedundancyMaker {
  let source: Function
  var random: Random
  var module: Module
  var function: Function
  /// Values of the new function that equal a value of the old one.
  var equals: [ValueID: [ValueID]] = [:]

  init(_ module: Module, seed: UInt64) {
    source = module.functions[0]
    random = Random(seed: seed)
    self.module = module
    function = Function(name: source.name)
  }

  mutating func make() throws -> Module {
    for argument in source.arguments {
      let new = function.addArgument(name: source[argument].name, type: source[argument].type)
      equals[argument] = [new]
      try addCopies(of: argument)
    }
    for id in source.body {
      let operation = source[id]
      // Now and then twice, of other but equal operands; what makes offsets defines a dimension, which can be done once.
      let makesOffsets = operation.rowDomain == nil
      for _ in 0..<(makesOffsets ? 1 : random.integer(in: 1...2)) {
        var operands = operation.operands.map { pick($0) }
        switch operation.payload {
        case .add, .multiply: if random.once(in: 2) { operands.reverse() }
        // The verifier wants the very operands of the selection.
        case .selectRows: operands.replaceSubrange(1..., with: operation.operands[1...].map { first($0) })
        case .restoreRows: operands.replaceSubrange(2..., with: operation.operands[2...].map { first($0) })
        case .extendRows(let extend):
          let first = extend.places(among: operands.count).offsets
          operands.replaceSubrange(first..., with: operation.operands[first...].map { self.first($0) })
        case .originalRows: operands.replaceSubrange(1..., with: operation.operands[1...].map { first($0) })
        case .extendOffsets, .selectOffsets: operands = operation.operands.map { first($0) }
        default: break
        }
        let results = try append(operation.payload, operands)
        for (old, new) in zip(operation.results, results) { equals[old, default: []].append(new) }
      }
      for result in operation.results { try addCopies(of: result) }
    }
    function.results = source.results.map { Function.Result(name: $0.name, value: pick($0.value)) }
    module.functions = [function]
    return module
  }

  private mutating func first(_ value: ValueID) -> ValueID {
    if case .weight(let weight) = source[value].definition { return function.value(of: weight, in: module) }
    return equals[value, default: []][0]
  }

  private mutating func pick(_ value: ValueID) -> ValueID {
    if case .weight = source[value].definition { return first(value) }
    return random.pick(equals[value, default: []])
  }

  private mutating func append(_ payload: Payload, _ operands: [ValueID]) throws -> [ValueID] {
    let types = try payload.definition.resultTypes(for: operands.map { function[$0].type })
    let id = function.append(payload, operands: operands, results: types.map { (payload.mnemonic, $0) })
    return function[id].results
  }

  /// Values that are computed from `value` and equal it, and others that nobody reads.
  private mutating func addCopies(of value: ValueID) throws {
    guard let type = source[value].type.tensor, type.rank == 2, type.element.isFloatingPoint,
      let width = type.shape[1].extent
    else { return }
    let operand = pick(value)
    switch random.integer(in: 0...7) {
    case 0: equals[value, default: []] += try append(.scale(Scale(factor: 1)), [operand])
    case 1: equals[value, default: []] += try append(.concatenate(Concatenate()), [operand])
    case 2: equals[value, default: []] += try append(.split(Split(widths: [width])), [operand])
    case 3 where width > 1:
      let parts = try append(.split(Split(widths: [1, width - 1])), [operand])
      equals[value, default: []] += try append(.concatenate(Concatenate()), parts)
    case 4:
      let joined = try append(.concatenate(Concatenate()), [operand, pick(value)])
      equals[value, default: []] += try append(.split(Split(widths: [width, width])), joined)
    case 5 where width > 2:
      let parts = try append(.split(Split(widths: [1, 1, width - 2])), [operand])
      let inner = try append(.concatenate(Concatenate()), [parts[1], parts[2]])
      equals[value, default: []] += try append(.concatenate(Concatenate()), [parts[0], inner[0]])
    case 6: _ = try append(.sigmoid(Sigmoid()), try append(.silu(SiLU()), [operand]))
    default: break
    }
  }
}

@Suite("Properties of passes")
struct PropertyTests {
  private func results(_ module: Module, of program: RandomProgram) throws -> [HostTensor] {
    try Interpreter(module: module, weights: program.weights, precision: .f32)
      .run("forward", inputs: program.inputs).map(\.tensor)
  }

  /// Runs the pipeline on the module and holds its results to `expected`, bit for bit; gives the rewritten module.
  private func rewrite(
    _ module: Module, of program: RandomProgram, _ pipeline: PassPipeline, _ expected: [HostTensor]
  ) throws -> Module {
    var rewritten = module
    try PassManager(pipeline).run(on: &rewritten)
    #expect(try results(rewritten, of: program) == expected, "\(pipeline) changed \(program)")
    var again = rewritten
    try PassManager(pipeline).run(on: &again)
    #expect(again.text == rewritten.text, "\(pipeline) is not done with \(program)")
    return rewritten
  }

  /// Rewrites the program as it is and with redundancies. Gives how many operations the redundant one had, and kept.
  private func check(_ program: RandomProgram, _ pipeline: PassPipeline) throws -> (before: Int, after: Int) {
    let expected = try results(program.module, of: program)
    _ = try rewrite(program.module, of: program, pipeline, expected)
    var maker = RedundancyMaker(program.module, seed: program.seed)
    let redundant = try maker.make()
    #expect(try results(redundant, of: program) == expected, "the test's own redundancy changed \(program)")
    let rewritten = try rewrite(redundant, of: program, pipeline, expected)
    return (redundant.functions[0].body.count, rewritten.functions[0].body.count)
  }

  @Test("exact passes keep every bit", arguments: RandomProgram.Kind.allCases, ["canonicalize", "cse", "dce"])
  func exact(kind: RandomProgram.Kind, pass: String) throws {
    var (before, after) = (0, 0)
    for seed in 1...6 as ClosedRange<UInt64> {
      let counts = try check(RandomProgram(kind, seed: seed), PassPipeline(parsing: pass))
      before += counts.before
      after += counts.after
    }
    #expect(after < before)
  }

  @Test("the clean-ups take every redundancy out again", arguments: RandomProgram.Kind.allCases)
  func pipeline(kind: RandomProgram.Kind) throws {
    for seed in 101...110 as ClosedRange<UInt64> {
      let program = try RandomProgram(kind, seed: seed)
      let counts = try check(program, PassPipeline(level: 1))
      #expect(counts.after <= program.module.functions[0].body.count, "\(program)")
    }
  }

  @Test("the pipeline of -O2 keeps results within rounding", arguments: RandomProgram.Kind.allCases)
  func reassociates(kind: RandomProgram.Kind) throws {
    var changed = 0
    for seed in 201...230 as ClosedRange<UInt64> {
      let program = try RandomProgram(kind, seed: seed)
      var rewritten = program.module
      try PassManager(PassPipeline(level: 2)).run(on: &rewritten)
      if rewritten.text != program.module.text { changed += 1 }
      var again = rewritten
      try PassManager(PassPipeline(level: 2)).run(on: &again)
      #expect(again.text == rewritten.text, "the pipeline is not done with \(program)")
      func run(_ module: Module, _ precision: Interpreter.Precision) throws -> [HostTensor] {
        try Interpreter(module: module, weights: program.weights, precision: precision)
          .run("forward", inputs: program.inputs).map(\.tensor)
      }
      let expected = try run(program.module, .f64)
      // The bound of fp32, and the same of fp64: both count roundings.
      for (precision, rounding) in [(Interpreter.Precision.f64, 0x1p-29), (.f32, 1)] {
        for (found, expected) in zip(try run(rewritten, precision), expected) {
          let bound = kind.tolerance(of: expected) * rounding
          let difference = zip(found.doubles, expected.doubles).reduce(0) { max($0, abs($1.0 - $1.1)) }
          #expect(difference <= bound, "\(program) in \(precision): \(difference) > \(bound)")
        }
      }
    }
    #expect(changed > 0)
  }
}
