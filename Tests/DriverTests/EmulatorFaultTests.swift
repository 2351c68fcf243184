import Codegen
import GPUEmulator
import Interpreter
import LLVMKit
import Passes
import TensorIR
import TestSupport
import Testing

/// That the emulator sees what on a card goes wrong now and then.
@Suite("Faults that the emulator finds", .serialized)
struct EmulatorFaultTests {
  // MARK: - A kernel by hand

  /// What 128 threads do, step by step: they bring both sides of a product to shared memory, multiply, overwrite the left side, and
  /// bring it again by a bulk copy, for another product.
  fileprivate struct Handmade {
    static let fence = #"call void asm sideeffect "fence.proxy.async.shared::cta;", "~{memory}"()"#
    static let barrier = "call void @llvm.nvvm.barrier0()"

    var bring = """
      %own = getelementptr i8, ptr addrspace(3) @ultra_shared, i32 %bytes
      %source = getelementptr i8, ptr addrspace(1) %sides, i32 %bytes
      %sixteen = load <4 x i32>, ptr addrspace(1) %source, align 16
      store <4 x i32> %sixteen, ptr addrspace(3) %own, align 16
      %half = lshr i32 %bytes, 3
      %eighth = getelementptr i8, ptr addrspace(1) %sides, i32 %half
      %fromRight = getelementptr i8, ptr addrspace(1) %eighth, i32 2048
      %pair = load i16, ptr addrspace(1) %fromRight, align 2
      %ownRight = getelementptr i8, ptr addrspace(3) getelementptr (i8, ptr addrspace(3) @ultra_shared, i32 2048), i32 %half
      store i16 %pair, ptr addrspace(3) %ownRight, align 2
      """
    var publish = fence
    var meet = barrier
    /// From shared memory, then with words of the same left side in registers.
    var begin = Handmade.multiply(
      "from", left: "$8", sums: ["0.0", "0.0", "0.0", "0.0"], last: "i64 %left, i64 %right", "l,l")
    var wait = Handmade.wait("first", of: "from")
    var meetAgain = barrier
    var overwrite = """
      %far = xor i32 %bytes, 1024
      %other = getelementptr i8, ptr addrspace(3) @ultra_shared, i32 %far
      store <4 x i32> zeroinitializer, ptr addrspace(3) %other, align 16
      """
    var publishAgain = fence
    var meetOnce = barrier
    var refill = """
      br i1 %isFirst, label %one, label %all
      one:
      call void asm sideeffect "mbarrier.arrive.expect_tx.shared::cta.b64 _, [$0], 2048;", "r,~{memory}"(i32 %here)
      call void asm sideeffect "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [$0], [$1], 2048, [$2];", \
      "r,l,r,~{memory}"(i32 %start, ptr addrspace(1) %sides, i32 %here)
      br label %all
      all:
      """
    var waitForCopy = """
      call void asm sideeffect "mbarrier.try_wait.parity.shared::cta.b64 done, [$0], $1;", "r,r,~{memory}"(i32 %here, i32 0)
      """
    var beginAgain = Handmade.multiply(
      "registers", left: "{$8, $9, $10, $11}", sums: (0..<4).map { "%first\($0)" },
      last: "i32 %w0, i32 %w1, i32 %w2, i32 %w3, i64 %right", "r,r,r,r,l", flags: "1, 1, 0")
    var waitAgain = Handmade.wait("second", of: "registers", holding: (0..<4).map { "i32 %w\($0)" })
    var results = "second"

    private static let fields = "{ float, float, float, float }"

    static func multiply(
      _ name: String, left: String, sums: [String], last: String, _ constraints: String, flags: String = "1, 1, 0, 0"
    ) -> String {
      let right = "$\(8 + constraints.split(separator: ",").count - 1)"
      return "%\(name) = call \(fields) asm sideeffect \"{ .reg .pred isAdded; setp.ne.b32 isAdded, 1, 0; "
        + "wgmma.fence.sync.aligned; wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {$0, $1, $2, $3}, \(left), "
        + "\(right), isAdded, \(flags); wgmma.commit_group.sync.aligned; }\", "
        + "\"=f,=f,=f,=f,0,1,2,3,\(constraints),~{memory}\"(\(list(sums)), \(last))"
    }

    static func wait(_ name: String, of products: String, holding words: [String] = []) -> String {
      let inputs = words.map { _ in ",r" }.joined()
      let fieldsOf = (0..<4).map { "%\(products)\($0) = extractvalue \(fields) %\(products), \($0)\n" }.joined()
      let results = (0..<4).map { "%\(name)\($0) = extractvalue \(fields) %\(name), \($0)\n" }.joined()
      return fieldsOf
        + "%\(name) = call \(fields) asm sideeffect \"wgmma.wait_group.sync.aligned 0;\", \"=f,=f,=f,=f,0,1,2,3\(inputs),~{memory}\""
        + "(\(list((0..<4).map { "%\(products)\($0)" }))\(words.map { ", " + $0 }.joined()))\n" + results
    }

    private static func list(_ numbers: [String]) -> String { numbers.map { "float \($0)" }.joined(separator: ", ") }

    var text: String {
      let steps = [
        bring, publish, meet, begin, wait, meetAgain, overwrite, publishAgain, meetOnce, refill, waitForCopy,
        beginAgain,
        waitAgain,
      ]
      return """
        @ultra_shared = external addrspace(3) global [0 x i8], align 1024
        declare i32 @llvm.nvvm.read.ptx.sreg.tid.x()
        declare void @llvm.nvvm.barrier0()
        define ptx_kernel void @multiply(ptr addrspace(1) %sides, ptr addrspace(1) %words, ptr addrspace(1) %results) {
        %thread = call i32 @llvm.nvvm.read.ptx.sreg.tid.x()
        %bytes = shl i32 %thread, 4
        %isFirst = icmp eq i32 %thread, 0
        %start = ptrtoint ptr addrspace(3) @ultra_shared to i32
        %here = add i32 %start, 2304
        br i1 %isFirst, label %make, label %begin
        make:
        call void asm sideeffect "mbarrier.init.shared::cta.b64 [$0], 1;", "r,~{memory}"(i32 %here)
        br label %begin
        begin:
        %place = lshr i32 %start, 4
        %short = and i32 %place, 16383
        %wide = zext i32 %short to i64
        %left = or i64 %wide, \((128 >> 4) << 16 | (256 >> 4) << 32)
        %right = add i64 %left, \(2048 >> 4)
        %ownWords = getelementptr i8, ptr addrspace(1) %words, i32 %bytes
        \((0..<4).map { """
          %p\($0) = getelementptr i8, ptr addrspace(1) %ownWords, i32 \(4 * $0)
          %w\($0) = load i32, ptr addrspace(1) %p\($0), align 4
          """ }.joined(separator: "\n"))
        \(steps.joined(separator: "\n"))
        %target = getelementptr i8, ptr addrspace(1) %results, i32 %bytes
        \((0..<4).map { """
          %t\($0) = getelementptr i8, ptr addrspace(1) %target, i32 \(4 * $0)
          store float %\(results)\($0), ptr addrspace(1) %t\($0), align 4
          """ }.joined(separator: "\n"))
        ret void
        }
        """
    }

    /// Numbers of the left side [64, 16] and the right one [16, 8].
    static func left(_ row: Int, _ index: Int) -> Float { Float((row * 5 + index * 3) % 17 - 8) }
    static func right(_ index: Int, _ column: Int) -> Float { Float((index * 7 + column) % 13 - 6) }

    /// Runs it; the sums [64, 8] of both products.
    func run(_ order: GPUEmulator.Order, _ arrival: GPUEmulator.Arrival) throws -> [Float] {
      func bits(_ number: Float) -> UInt16 { UInt16(number.bitPattern >> 16) }
      var sides = [UInt16](repeating: 0, count: (2048 + 256) / 2)
      for row in 0..<64 {
        for index in 0..<16 {
          sides[row / 8 * 128 + index / 8 * 64 + row % 8 * 8 + index % 8] = bits(Self.left(row, index))
        }
      }
      for index in 0..<16 {
        for column in 0..<8 { sides[1024 + index / 8 * 64 + column * 8 + index % 8] = bits(Self.right(index, column)) }
      }
      var words = [UInt32](repeating: 0, count: 512)
      for thread in 0..<128 {
        for word in 0..<4 {
          let (row, index) = (thread / 32 * 16 + thread % 32 / 4 + word % 2 * 8, 2 * (thread % 4) + word / 2 * 8)
          let pair = (bits(Self.left(row, index)), bits(Self.left(row, index + 1)))
          words[4 * thread + word] = UInt32(pair.0) | UInt32(pair.1) << 16
        }
      }
      var results = [Float](repeating: 0, count: 512)
      let emulator = try GPUEmulator(IRModule(parsing: text, in: Context()))
      let launch = GPUEmulator.Launch(kernel: "multiply", blocks: (1, 1), threads: 128, sharedBytes: 2320)
      try sides.withUnsafeMutableBytes { sides in
        try words.withUnsafeMutableBytes { words in
          try results.withUnsafeMutableBytes { results in
            var addresses = [sides, words, results].map { UInt(bitPattern: $0.baseAddress) }
            try addresses.withUnsafeMutableBytes { addresses in
              let parameters = (0..<3).map { UnsafeRawPointer(addresses.baseAddress! + 8 * $0) as UnsafeRawPointer? }
              try emulator.run(launch, parameters: parameters, order: order, arrival: arrival)
            }
          }
        }
      }
      return results
    }

    /// Both products, as they lie in the threads' registers.
    static let expected: [Float] = (0..<512).map { place in
      let (thread, field) = (place / 4, place % 4)
      let row = thread / 32 * 16 + thread % 32 / 4 + field / 2 * 8
      let column = 2 * (thread % 4) + field % 2
      return 2 * (0..<16).reduce(Float(0)) { $0 + left(row, $1) * right($1, column) }
    }
  }

  private static let schedules: [(GPUEmulator.Order, GPUEmulator.Arrival)] = [
    (.ascending, .early), (.descending, .late), (.shuffled, .late),
  ]

  @Test("a product that is fenced and waited for is none")
  func none() throws {
    for (order, arrival) in Self.schedules {
      #expect(try Handmade().run(order, arrival) == Handmade.expected, "\(order), \(arrival)")
    }
  }

  /// Something that was forgotten, and what is said of it.
  struct Mistake: CustomTestStringConvertible, Sendable {
    var testDescription: String
    var fault: String
    fileprivate var make: @Sendable (inout Handmade) -> Void

    fileprivate init(_ description: String, _ fault: String, _ make: @escaping @Sendable (inout Handmade) -> Void) {
      (testDescription, self.fault, self.make) = (description, fault, make)
    }
  }

  static let mistakes: [Mistake] = [
    Mistake("written without a fence", "without fence.proxy.async") { $0.publish = "" },
    Mistake("a fence before it is written", "without fence.proxy.async") {
      ($0.bring, $0.publish) = (Handmade.fence + "\n" + $0.bring, "")
    },
    Mistake("written without a barrier", "not told so by a barrier") { $0.meet = "" },
    Mistake("a fence after the barrier by one warp alone", "without fence.proxy.async") {
      $0.publish = ""
      $0.meet +=
        "\n%isWarp = icmp slt i32 %thread, 32\nbr i1 %isWarp, label %warp, label %rest\nwarp:\n"
        + Handmade.fence + "\nbr label %rest\nrest:"
    },
    Mistake("registers without a fence", "begins without wgmma.fence") {
      $0.begin = $0.begin.replacing("wgmma.fence.sync.aligned; ", with: "")
    },
    Mistake("a group that is not closed", "may still read") {
      $0.begin = $0.begin.replacing("wgmma.commit_group.sync.aligned; ", with: "")
    },
    Mistake("a wait for all but one group", "may still read") {
      $0.wait = $0.wait.replacing("aligned 0", with: "aligned 1")
    },
    Mistake("the last wait is missing", "have not waited for") {
      $0.waitAgain = $0.waitAgain.replacing("aligned 0", with: "aligned 1")
    },
    Mistake("overwritten before the wait", "may still read") {
      ($0.begin, $0.wait, $0.meetAgain, $0.overwrite) = ($0.begin, $0.meetAgain, $0.overwrite, $0.wait)
    },
    Mistake("overwritten while others may wait", "may still read") { $0.meetAgain = "" },
    Mistake("sums that the wait does not have", "does not have their sums") {
      $0.wait =
        (0..<4).map { "%first\($0) = extractvalue { float, float, float, float } %from, \($0)\n" }.joined()
        + #"call void asm sideeffect "wgmma.wait_group.sync.aligned 0;", "~{memory}"()"#
    },
    Mistake("a left side that the wait does not have", "registers of their left side") {
      $0.waitAgain = Handmade.wait("second", of: "registers")
    },
    Mistake("a bulk copy over what threads wrote", "a bulk copy") { $0.publishAgain = "" },
    Mistake("a bulk copy over what is being read", "may still read") {
      $0.refill =
        Handmade.multiply(
          "registers", left: "$8", sums: (0..<4).map { "%first\($0)" }, last: "i64 %left, i64 %right", "l,l") + "\n"
        + $0.refill
      $0.beginAgain = ""
    },
  ]

  @Test("what was forgotten is reported", arguments: mistakes)
  func reported(mistake: Mistake) throws {
    var kernel = Handmade()
    mistake.make(&kernel)
    for order in [GPUEmulator.Order.descending, .shuffled] {
      #expect {
        _ = try kernel.run(order, .late)
      } throws: {
        "\($0)".contains(mistake.fault)
      }
    }
  }

  @Test("sums are none before they were waited for")
  func early() throws {
    var kernel = Handmade()
    kernel.results = "registers"
    #expect(try kernel.run(.ascending, .early) == Handmade.expected)
    #expect(try kernel.run(.ascending, .late).allSatisfy(\.isNaN))
  }

  // MARK: - Code as it is made

  @Test(
    "so it is in the code of models",
    arguments: [
      ("fence.proxy.async.shared::cta;", "fence.acq_rel.cta;", "without fence.proxy.async"),
      (
        #"asm sideeffect "wgmma.wait_group.sync.aligned 0;"#, #"asm sideeffect "wgmma.wait_group.sync.aligned 1;"#,
        "left side"
      ),
      ("wgmma.wait_group.sync.aligned 1;", "wgmma.wait_group.sync.aligned 2;", "does not have their sums"),
      ("wgmma.wait_group.sync.aligned 0;\\0A\\09}", "}", "does not have their sums"),
    ])
  func models(right: String, wrong: String, fault: String) throws {
    var random = Random(seed: 23)
    var (module, weights) = try GPUModels.stack(
      &random, width: 256, heads: 2, headWidth: 64, layers: 1, mask: .causal)
    try PassManager(PassPipeline(parsing: "lower-precision{matmul=bf16,attention=bf16},fuse")).run(on: &module)
    let inputs = [
      "x": random.tensor([130, 256]), "offsets": HostTensor([0, 130] as [Int64]), "targets": HostTensor([2] as [Int64]),
    ]
    let gpu = try EmulatedGPU(module, DerivedWeights(module, base: weights), .sm90a) { text in
      #expect(text.contains(right))
      return text.replacing(right, with: wrong)
    }
    #expect {
      _ = try gpu.run(inputs, order: .descending, arrival: .late)
    } throws: {
      "\($0)".contains(fault)
    }
  }
}
