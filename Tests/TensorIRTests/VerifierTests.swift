import TensorIR
import Testing

/// Rules that a text cannot break, since the parser names values and infers types itself: what an edit may get wrong.
@Suite("Verifier")
struct VerifierTests {
  private static let rows = Dimension.symbol("rows")

  /// `a = silu x; b = linear a, @w; return b`
  private func sample() throws -> Module {
    var build = FunctionBuilder(module: Module(name: "m"), name: "forward")
    let x = build.argument("x", .tensor([Self.rows, .fixed(4)], .f32))
    let a = try build.emit(.silu(SiLU()), x, name: "a")
    let b = try build.emit(.linear(Linear()), a, build.weight("w", [4, 4]), name: "b")
    build.result("out", b)
    return build.finish()
  }

  private func errors(_ edit: (inout Module) throws -> Void) throws -> [String] {
    var module = try sample()
    try edit(&module)
    return module.verificationErrors().map(\.description)
  }

  @Test func soundModule() throws { #expect(try errors { _ in } == []) }

  @Test func everyErrorIsCollected() throws {
    let found = try errors { module in
      module.functions[0].body.reverse()
      module.functions.append(module.functions[0])
    }
    #expect(
      found == [
        "in @forward: %b = linear: operand 0 is %a, which is used before it is defined",
        "the function @forward is defined twice",
        "in @forward: %b = linear: operand 0 is %a, which is used before it is defined",
      ])
  }

  @Test func removedDefinition() throws {
    let found = try errors { $0.functions[0].body.removeFirst() }
    #expect(found == ["in @forward: %b = linear: operand 0 is %a, which is used before it is defined"])
  }

  @Test func removedResult() throws {
    let found = try errors { $0.functions[0].body.removeLast() }
    #expect(found == ["in @forward: result out is %b, which is used before it is defined"])
  }

  @Test func operationTwice() throws {
    let found = try errors { $0.functions[0].body.append($0.functions[0].body[0]) }
    #expect(found == ["in @forward: %a = silu: is in the body twice"])
  }

  @Test func operationOfAnotherFunction() throws {
    let found = try errors { module in
      var other = module.functions[0]
      let x = other.arguments[0]
      let id = other.append(.silu(SiLU()), operands: [x], results: [("c", other[x].type)])
      module.functions[0].body.append(id)
    }
    #expect(found == ["in @forward: the body names operation 2, but there are 2"])
  }

  @Test func operandOfAnotherFunction() throws {
    let found = try errors { module in
      var other = module.functions[0]
      let value = other.addArgument(name: "y", type: .tensor([Self.rows, .fixed(4)], .f32))
      let id = module.functions[0].body[0]
      module.functions[0][id].operands = [value]
    }
    #expect(found == ["in @forward: %a = silu: operand 0 is value 4, but there are 4"])
  }

  @Test func wrongType() throws {
    let found = try errors { module in
      let function = module.functions[0]
      let last = function.body[1]
      module.functions[0][last].payload = .silu(SiLU())
      module.functions[0][last].operands = [function.arguments[0]]
      let x = function.arguments[0]
      let wide = ValueType.tensor([Self.rows, .fixed(5)], .f32)
      module.functions[0].append(.silu(SiLU()), operands: [x], results: [("c", wide)])
    }
    #expect(
      found == [
        "in @forward: %c = silu: result 0 is written as tensor<rows x 5 x f32>, but it is tensor<rows x 4 x f32>"
      ])
  }

  @Test func wrongNumberOfResults() throws {
    let found = try errors { module in
      let x = module.functions[0].arguments[0]
      let type = module.functions[0][x].type
      module.functions[0].append(.silu(SiLU()), operands: [x], results: [("c", type), ("d", type)])
    }
    #expect(found == ["in @forward: %c = silu: gives 1 results, but has 2"])
  }

  @Test func resultsOfAnotherOperation() throws {
    let found = try errors { module in
      let function = module.functions[0]
      module.functions[0][function.body[1]].results = function[function.body[0]].results
    }
    #expect(found.first == "in @forward: %a = linear: result 0 is not defined as the operation's result")
  }

  @Test func weightOfAnotherModule() throws {
    let found = try errors { module in
      var emptied = Module(name: "m")
      emptied.functions = module.functions
      module = emptied
    }
    #expect(found == ["in @forward: %b = linear: operand 1 is @w, which is not declared"])
  }

  @Test func weightOfAnotherType() throws {
    let found = try errors { module in
      var changed = Module(name: "m")
      changed.declareWeight(Weight(name: "w", type: TensorType([.fixed(9)], .f32)))
      changed.functions = module.functions
      module = changed
    }
    #expect(
      found == [
        "in @forward: %b = linear: operand 1 is @w : tensor<4 x 4 x f32>, but declared is @w : tensor<9 x f32>"
      ])
  }

  @Test func unreadWeightsAreRemoved() throws {
    var build = FunctionBuilder(module: Module(name: "m"), name: "forward")
    let x = build.argument("x", .tensor([Self.rows, .fixed(4)], .f32))
    _ = try build.weight("first", [1])
    let y = try build.emit(.linear(Linear()), x, build.weight("second", [4, 4]))
    _ = try build.weight("third", [1])
    let fourth = try build.weight("fourth", [4])
    build.result("y", y)
    build.result("w", fourth)
    var module = build.finish()
    #expect(module.removeUnreadWeights() == 2)
    #expect(module.weights.map(\.name) == ["second", "fourth"])
    #expect(module.verificationErrors().isEmpty)
    #expect(module.weight(named: "first") == nil)
    #expect(module.weight(named: "fourth").map { module[$0].name } == "fourth")
    #expect(module.removeUnreadWeights() == 0)
    // A weight that comes back, and one that was there, get values of their own.
    let again = module.declareWeight(Weight(name: "first", type: TensorType([.fixed(2)], .f32)))
    let value = module.functions[0].value(of: again, in: module)
    #expect(module.functions[0][value].name == "first")
    let second = try #require(module.weight(named: "second"))
    #expect(module.functions[0][module.functions[0].value(of: second, in: module)].name == "second")
  }
}
