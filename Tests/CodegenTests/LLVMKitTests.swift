import Foundation
import LLVMKit
import Testing

@Suite("LLVMKit")
struct LLVMKitTests {
  let context = Context()
  let module: IRModule

  init() { module = IRModule("test", in: context) }

  /// A function whose body the closure builds from its parameters.
  @discardableResult
  private func define(
    _ name: String, _ parameters: [IRType], returns: IRType, cpu: String = "x86-64-v3",
    _ body: (inout IRBuilder, [IRValue]) -> Void
  ) -> IRFunction {
    let function = module.addFunction(name, type: context.function(parameters, returns: returns))
    function.setTarget(cpu: cpu)
    function.addAttribute("nounwind")
    var builder = IRBuilder(at: function.appendBlock("entry"))
    body(&builder, function.parameters)
    return function
  }

  @Test("a dot product by vectors, with a masked rest", arguments: [nil, "default<O2>"] as [String?])
  func dotProduct(pipeline: String?) throws {
    let lanes = 8
    let vector = context.vector(context.f32, lanes)
    let function = define("dot", [context.pointer, context.pointer, context.i64], returns: context.f32) { b, p in
      let whole = b.and(p[2], -lanes)
      let sum = b.loop(from: b.i64(0), to: whole, step: lanes, carrying: [vector.constant(0.0)]) { b, i, carried in
        let x = b.load(vector, b.element(p[0], context.f32, i), alignment: 4)
        let y = b.load(vector, b.element(p[1], context.f32, i), alignment: 4)
        return [b.fma(x, y, carried[0])]
      }
      let rest = b.laneMask(below: b.sub(p[2], whole), lanes: lanes)
      let x = b.maskedLoad(vector, b.element(p[0], context.f32, whole), mask: rest, alignment: 4)
      let y = b.maskedLoad(vector, b.element(p[1], context.f32, whole), mask: rest, alignment: 4)
      b.ret(b.reduceByHalves(b.fma(x, y, sum[0])) { $0.fadd($1, $2) })
    }
    function.addParameterAttributes(0, [.noAlias, .readOnly, .nonNull, .noCapture, .alignment(4)])
    let object = try load(module, optimizing: pipeline)
    let dot = try object.function(
      "dot", as: (@convention(c) (UnsafePointer<Float>, UnsafePointer<Float>, Int) -> Float).self)
    for count in [0, 1, 7, 8, 9, 31, 64, 100] {
      let x = (0..<count).map { Float($0 % 7 - 3) }
      let y = (0..<count).map { Float($0 % 5) }
      #expect(dot(x, y, count) == zip(x, y).map(*).reduce(0, +), "\(count) elements")
    }
  }

  @Test("a loop tests before its first turn and passes carried values on")
  func loops() throws {
    define("sum", [context.i64, context.i64, context.i64], returns: context.i64) { b, p in
      let sum = b.loop(from: p[0], to: p[1], step: p[2], hint: .asWritten, carrying: [b.i64(0)]) { b, i, carried in
        [b.add(carried[0], i)]
      }
      b.ret(sum[0])
    }
    let object = try load(module)
    let sum = try object.function("sum", as: (@convention(c) (Int, Int, Int) -> Int).self)
    #expect(sum(0, 10, 1) == 45)
    #expect(sum(5, 5, 1) == 0)
    #expect(sum(6, 5, 1) == 0)
    #expect(sum(-4, 5, 4) == 0)
    #expect(sum(-4, 6, 3) == -4 - 1 + 2 + 5)
  }

  @Test("nested loops and branches leave the builder where control goes on")
  func nesting() throws {
    // Counts pairs i < n, j < i with i + j odd, and returns early for a negative n.
    define("pairs", [context.i64], returns: context.i64) { b, p in
      b.ifThen(b.icmp(.slt, p[0], 0)) { b in b.ret(b.i64(-1)) }
      let total = b.loop(from: b.i64(0), to: p[0], step: 1, name: "rows", carrying: [b.i64(0)]) { b, i, outer in
        b.loop(from: b.i64(0), to: i, step: 1, name: "columns", carrying: outer) { b, j, inner in
          let odd = b.icmp(.ne, b.and(b.add(i, j), 1), 0)
          return b.ifThenElse(odd) { b in
            [b.add(inner[0], 1)]
          } otherwise: { _ in
            inner
          }
        }
      }
      b.ret(total[0])
    }
    let object = try load(module)
    let pairs = try object.function("pairs", as: (@convention(c) (Int) -> Int).self)
    #expect(pairs(-3) == -1)
    for n in [0, 1, 2, 5, 10] {
      #expect(pairs(n) == (0..<n).reduce(0) { total, i in total + (0..<i).filter { (i + $0) % 2 == 1 }.count })
    }
  }

  @Test("a while loop and a switch")
  func whileAndSwitch() throws {
    define("collatz", [context.i64], returns: context.i64) { b, p in
      let end = b.whileLoop(
        carrying: [p[0], b.i64(0)], condition: { b, c in b.icmp(.ne, c[0], 1) },
        { b, c in
          let even = b.icmp(.eq, b.and(c[0], 1), 0)
          return [b.select(even, b.lshr(c[0], 1), b.add(b.mul(c[0], 3), 1)), b.add(c[1], 1)]
        })
      b.ret(end[1])
    }
    define("name", [context.i64], returns: context.i64) { b, p in
      let blocks = (0..<3).map { _ in b.appendBlock() }
      b.switchOn(p[0], cases: [(4, blocks[0]), (-2, blocks[1])], default: blocks[2])
      for (block, value) in zip(blocks, [40, -20, 0]) {
        b.position(at: block)
        b.ret(b.i64(value))
      }
    }
    let object = try load(module)
    let collatz = try object.function("collatz", as: (@convention(c) (Int) -> Int).self)
    let name = try object.function("name", as: (@convention(c) (Int) -> Int).self)
    #expect(collatz(1) == 0)
    #expect(collatz(27) == 111)
    #expect([4, -2, 5].map(name) == [40, -20, 0])
  }

  @Test("vector memory: gather, scatter, masked store, shuffles, stack and inline copies")
  func vectorMemory() throws {
    let vector = context.vector(context.f32, 8)
    // out[i] = -in[7 - index[i]], written where in is positive, through the stack.
    define("permute", [context.pointer, context.pointer, context.pointer], returns: context.void) { b, p in
      let slot = b.alloca(context.f32, count: 8, alignment: 32)
      b.copyBytes(to: slot, from: p[0], count: 32, alignment: 4)
      let index = b.load(context.vector(context.i32, 8), p[1], alignment: 4)
      let addresses = b.element(slot, context.f32, b.sub(index.type.constant(7), index))
      let values = b.gather(vector, addresses, mask: context.vector(context.i1, 8).allOnes(), alignment: 4)
      let positive = b.fcmp(.ogt, b.load(vector, slot, alignment: 32), vector.null())
      b.maskedStore(b.fneg(values), p[2], mask: positive, alignment: 4)
    }
    define("reverse", [context.pointer], returns: context.void) { b, p in
      let lanes = b.load(vector, p[0], alignment: 4)
      let addresses = b.element(p[0], context.f32, vector.withElement(context.i64).constants(Array((0..<8).reversed())))
      b.scatter(lanes, addresses, mask: vector.withElement(context.i1).allOnes(), alignment: 4)
      b.ret()
    }
    IRBuilder(at: try #require(module.function(named: "permute")?.entry)).ret()
    let object = try load(module)
    let permute = try object.function(
      "permute",
      as: (@convention(c) (UnsafePointer<Float>, UnsafePointer<Int32>, UnsafeMutablePointer<Float>) -> Void).self)
    let reverse = try object.function("reverse", as: (@convention(c) (UnsafeMutablePointer<Float>) -> Void).self)
    let input: [Float] = [1, -2, 3, -4, 5, -6, 7, -8]
    let index: [Int32] = [0, 1, 2, 3, 7, 6, 5, 4]
    var output = [Float](repeating: 99, count: 8)
    permute(input, index, &output)
    #expect(output == [8, 99, 6, 99, -1, 99, -3, 99])
    reverse(&output)
    #expect(output == [99, -3, 99, -1, 99, 6, 99, 8])
  }

  @Test("reductions: in order, by halves, and of integers")
  func reductions() throws {
    let floats = context.vector(context.f32, 4)
    let integers = context.vector(context.i32, 4)
    define("ordered", [context.pointer], returns: context.f32) { b, p in
      b.ret(b.reduceAdd(b.load(floats, p[0], alignment: 4)))
    }
    define("halves", [context.pointer], returns: context.f32) { b, p in
      b.ret(b.reduceByHalves(b.load(floats, p[0], alignment: 4)) { $0.fadd($1, $2) })
    }
    define("largest", [context.pointer], returns: context.f32) { b, p in
      b.ret(b.reduceMax(b.load(floats, p[0], alignment: 4)))
    }
    define("least", [context.pointer], returns: context.i32) { b, p in
      b.ret(b.reduceMin(b.load(integers, p[0], alignment: 4)))
    }
    let object = try load(module)
    typealias Reduction = @convention(c) (UnsafePointer<Float>) -> Float
    // 2^24 swallows a 1 that is added to it alone: the order shows.
    let values: [Float] = [0x1p24, 1, 1, 1]
    #expect(try object.function("ordered", as: Reduction.self)(values) == 0x1p24)
    #expect(try object.function("halves", as: Reduction.self)(values) == 0x1p24 + 2)
    #expect(try object.function("largest", as: Reduction.self)([-1, .nan, 3, 2]) == 3)
    let least = try object.function("least", as: (@convention(c) (UnsafePointer<Int32>) -> Int32).self)
    #expect(least([4, -7, 0, 9]) == -7)
  }

  @Test("a product and a sum are contracted only where asked")
  func contraction() throws {
    for relaxed in [false, true] {
      define("f\(relaxed)", [context.f32, context.f32, context.f32], returns: context.f32) { b, p in
        let product = b.fmul(p[0], p[1])
        let sum = b.fadd(product, p[2])
        if relaxed {
          _ = b.relax(product, .contract)
          _ = b.relax(sum, .contract)
        }
        b.ret(sum)
      }
    }
    let object = try load(module)
    typealias Function = @convention(c) (Float, Float, Float) -> Float
    let x: Float = 1 + 0x1p-12
    #expect(try object.function("ffalse", as: Function.self)(x, x, -1) == x * x - 1)
    #expect(try object.function("ftrue", as: Function.self)(x, x, -1) == (-1 as Float).addingProduct(x, x))
    #expect(x * x - 1 != (-1 as Float).addingProduct(x, x))
  }

  @Test("conversions round as IEEE says")
  func conversions() throws {
    define("half", [context.f32], returns: context.i16) { b, p in
      b.ret(b.bitcast(b.fptrunc(p[0], to: context.f16), to: context.i16))
    }
    define("toward", [context.f32], returns: context.i32) { b, p in b.ret(b.fptosi(p[0], to: context.i32)) }
    define("even", [context.f32], returns: context.f32) { b, p in b.ret(b.roundEven(p[0])) }
    let object = try load(module)
    let half = try object.function("half", as: (@convention(c) (Float) -> UInt16).self)
    let toward = try object.function("toward", as: (@convention(c) (Float) -> Int32).self)
    let even = try object.function("even", as: (@convention(c) (Float) -> Float).self)
    #expect(half(1 + 0x1p-11) == 0x3c00)
    #expect(half(1 + 0x1.8p-10) == 0x3c02)
    #expect([-1.7, 1.7].map(toward) == [-1, 1])
    #expect([0.5, 1.5, 2.5, -0.5].map(even) == [0, 2, 2, 0])
  }

  @Test("globals: bytes, a table of functions, used and hidden ones")
  func globals() throws {
    let text = module.addGlobal("text", initializer: module.cString("ultra"), alignment: 16)
    let note = module.addGlobal(
      "note", initializer: module.bytes([1, 2, 3]), linkage: .internal, section: ".note.test", alignment: 4,
      externallyInitialized: true)
    module.used([note])
    _ = module.addGlobal("secret", initializer: context.i32.constant(7), linkage: .external, hidden: true)
    let empty = module.addGlobal("empty", initializer: module.bytes([]), linkage: .external)
    #expect(empty.name == "empty")
    define("letter", [context.i64], returns: context.i8) { b, p in
      b.ret(b.load(context.i8, b.offset(text, bytes: p[0])))
    }
    #expect(module.text.contains("@llvm.used = appending global [1 x ptr] [ptr @note]"))
    let object = try load(module)
    let letter = try object.function("letter", as: (@convention(c) (Int) -> UInt8).self)
    #expect(String(decoding: (0..<5).map(letter), as: UTF8.self) == "ultra")
    #expect(letter(5) == 0)
    #expect(throws: HarnessError.self) { try object.address("secret") }
  }

  @Test("a float constant is emitted as that very number")
  func constants() throws {
    let values: [Float] = [0.1, -0, .leastNonzeroMagnitude, .greatestFiniteMagnitude, .infinity, 0x1.234568p-3]
    let table = module.addGlobal(
      "table", initializer: context.array(context.f32, values.count).constants(values.map { Double($0) }))
    define("value", [context.i64], returns: context.f32) { b, p in
      b.ret(b.load(context.f32, b.element(table, context.f32, p[0])))
    }
    let object = try load(module)
    let value = try object.function("value", as: (@convention(c) (Int) -> Float).self)
    #expect(values.indices.map { value($0).bitPattern } == values.map(\.bitPattern))
    let lanes = context.vector(context.i8, 4)
    #expect(lanes.constant(-1) == lanes.allOnes())
    #expect(lanes.lanes() == lanes.constants([0, 1, 2, 3]))
    #expect(context.f32.constant(3) == context.f32.constant(3.0))
  }

  @Test("types know their lanes")
  func types() {
    let vector = context.vector(context.f32, 8)
    #expect(vector.isVector && vector.vectorCount == 8 && vector.elementType == context.f32 && vector.elementBits == 32)
    #expect(!context.f32.isVector && context.f32.vectorCount == 1 && context.f32.elementType == context.f32)
    #expect(vector.withElement(context.i1) == context.vector(context.i1, 8))
    #expect(vector.isFloatingPoint && !vector.isInteger)
    #expect(context.structure([context.i8, context.pointer], packed: true).description == "<{ i8, ptr }>")
  }

  @Test("LLVM's complaints come back as errors")
  func errors() throws {
    let broken = module.addFunction("broken", type: context.function([], returns: context.i32))
    IRBuilder(at: broken.appendBlock("entry")).ret(context.i64.constant(1))
    let verification = #expect(throws: LLVMError.self) { try module.verify() }
    #expect(verification?.message.contains("Function return type does not match") == true)

    let triple = #expect(throws: LLVMError.self) { try TargetMachine(triple: "pdp11-dec-unix") }
    #expect(triple?.description.contains("pdp11-dec-unix") == true)

    let machine = try TargetMachine(triple: "x86_64-unknown-linux-gnu")
    let pipeline = #expect(throws: LLVMError.self) {
      try IRModule("empty", in: context).optimize("make-it-fast", for: machine)
    }
    #expect(pipeline?.message.contains("make-it-fast") == true)
  }

  @Test("a mistake in inline assembly is an error, not the end of the process")
  func assemblyError() throws {
    define("bad", [], returns: context.void) { b, _ in
      b.assembly("no_such_instruction", constraints: "", returns: context.void)
      b.ret()
    }
    try module.verify()
    let machine = try TargetMachine(triple: "x86_64-unknown-linux-gnu")
    let error = #expect(throws: LLVMError.self) { try machine.emitObject(module) }
    #expect(
      error?.message.contains("no_such_instruction") == true || error?.message.contains("invalid instruction") == true)
  }

  @Test(
    "every target emits assembly",
    arguments: [
      ("x86_64-unknown-linux-gnu", "retq"), ("aarch64-unknown-linux-gnu", "ret"), ("nvptx64-nvidia-cuda", "st.param"),
      ("amdgcn-amd-amdhsa", "s_setpc_b64"),
    ])
  func targets(triple: String, expected: String) throws {
    let function = module.addFunction("twice", type: context.function([context.i32], returns: context.i32))
    let builder = IRBuilder(at: function.appendBlock("entry"))
    builder.ret(builder.shl(function.parameters[0], 1))
    let machine = try TargetMachine(triple: triple)
    #expect(try machine.emitAssembly(module).contains(expected))
  }

  @Test("equal modules give equal objects")
  func determinism() throws {
    func object() throws -> [UInt8] {
      let context = Context()
      let module = IRModule("same", in: context)
      let function = module.addFunction(
        "f", type: context.function([context.pointer, context.i64], returns: context.void))
      var b = IRBuilder(at: function.appendBlock("entry"))
      b.loop(from: b.i64(0), to: function.parameters[1], hint: .unroll(4)) { b, i in
        let address = b.element(function.parameters[0], context.f32, i)
        b.store(b.sqrt(b.load(context.f32, address)), address)
      }
      b.ret()
      let machine = try TargetMachine(triple: "x86_64-unknown-linux-gnu", optimization: .aggressive)
      try module.optimize("default<O3>", for: machine)
      return try machine.emitObject(module)
    }
    #expect(try object() == object())
  }

  @Test("a per-function processor decides the vector width")
  func functionTargets() throws {
    for (cpu, width) in [("x86-64-v3", 256), ("x86-64-v4", 512)] {
      let vector = context.vector(context.f32, 16)
      define("add_\(width)", [context.pointer], returns: context.void, cpu: cpu) { b, p in
        let x = b.load(vector, p[0], alignment: 4)
        b.store(b.fadd(x, x), p[0], alignment: 4)
        b.ret()
      }.setTarget(cpu: cpu, vectorWidth: width)
    }
    let text = try TargetMachine(triple: "x86_64-unknown-linux-gnu").emitAssembly(module)
    let parts = text.components(separatedBy: "add_512:")
    try #require(parts.count == 2)
    #expect(parts[0].contains("%ymm") && !parts[0].contains("%zmm"))
    #expect(parts[1].contains("%zmm"))
  }
}
