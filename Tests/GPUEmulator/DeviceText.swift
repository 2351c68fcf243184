import Foundation

/// A module for a GPU rewritten for the processor: what only a GPU has, intrinsics and assembly, become calls of one function that is
/// given a number, the arguments and room for results.
struct DeviceText {
  /// What is called in place of something that only a GPU has.
  struct Call: Hashable {
    /// An intrinsic's name, or assembly.
    var text: String
    var isAssembly: Bool
    /// Of assembly, LLVM's constraints of its operands: outputs first, then an input for each argument.
    var constraints: [String] = []
    /// LLVM's text of the types.
    var result: String
    var arguments: [String]

    /// How many results it has.
    var outputs: Int { constraints.count { $0.hasPrefix("=") } }

    /// Arguments that lie where an output will: the output of each, and which argument it is.
    var ties: [(output: Int, argument: Int)] {
      constraints.dropFirst(outputs).enumerated().compactMap { index, constraint in Int(constraint).map { ($0, index) }
      }
    }
  }

  /// Bytes from argument to argument.
  static let argumentStride = 16

  /// The rewritten module. For each kernel it has `run.` and its name, a function that takes the addresses of its parameters.
  private(set) var text = ""
  /// What is asked for, by number.
  private(set) var calls: [Call] = []
  private var numbers: [Call: Int] = [:]

  /// Rewrites a module; with `notingStores` every store to shared memory first calls `device.wrote` with the address and how many bytes.
  init(_ module: String, notingStores: Bool) {
    var intrinsics: [(name: String, number: Int)] = []
    var kernels: [String] = []
    let lines = module.split(separator: "\n", omittingEmptySubsequences: false).map(String.init)
    for line in lines
    where line.hasPrefix("declare ") && (line.contains("@llvm.nvvm.") || line.contains("@llvm.amdgcn.")) {
      guard let at = line.firstIndex(of: "@"), let open = line[at...].firstIndex(of: "(") else { continue }
      let name = String(line[line.index(after: at)..<open])
      let result = Self.type(line[line.index(line.startIndex, offsetBy: 8)..<at])
      let call = Call(
        text: name, isAssembly: false, result: result, arguments: Self.list(line[open...]).map(Self.type))
      intrinsics.append((name, number(of: call)))
    }
    for line in lines {
      if line.hasPrefix("declare "), intrinsics.contains(where: { line.contains("@\($0.name)(") }) { continue }
      if line.hasPrefix("target ") || line.hasPrefix("source_filename") { continue }
      var line = line
      for convention in ["ptx_kernel ", "amdgpu_kernel "] where line.hasPrefix("define \(convention)") {
        line = "define " + line.dropFirst("define \(convention)".count)
        kernels.append(Self.runner(line))
      }
      if line.contains("@llvm.nvvm.") || line.contains("@llvm.amdgcn.") {
        for (name, number) in intrinsics { line = line.replacing("@\(name)(", with: "@device.\(number)(") }
      }
      if line.contains(" asm ") { line = rewriteAssembly(line) }
      if notingStores, let note = Self.note(of: line) { text += note }
      // A library would do it.
      if let truncation = line.range(of: "fptrunc float "), line.hasSuffix(" to bfloat") {
        let operand = line[truncation.upperBound...].dropLast(" to bfloat".count)
        line = line[..<truncation.lowerBound] + "call bfloat @device.round(float \(operand))"
      }
      text += line + "\n"
    }
    text += Self.rounding + kernels.joined()
    text += "declare void @device.ask(i32, ptr, ptr)\ndeclare void @device.wrote(ptr addrspace(3), i32)\n"
    for (number, call) in calls.enumerated() { text += Self.shim(number, call) }
  }

  private mutating func number(of call: Call) -> Int {
    if let known = numbers[call] { return known }
    numbers[call] = calls.count
    calls.append(call)
    return calls.count - 1
  }

  private mutating func rewriteAssembly(_ line: String) -> String {
    guard let start = line.range(of: "call "), let assembly = line.range(of: " asm ") else { return line }
    let parts = line[assembly.upperBound...].split(separator: "\"", maxSplits: 4, omittingEmptySubsequences: false)
    guard parts.count == 5, let open = parts[4].firstIndex(of: "(") else { return line }
    let arguments = Self.list(parts[4][open...])
    let call = Call(
      text: Self.unescaped(parts[1]), isAssembly: true,
      constraints: parts[3].split(separator: ",").map(String.init),
      result: String(line[start.upperBound..<assembly.lowerBound]),
      arguments: arguments.map(Self.type))
    let list = arguments.joined(separator: ", ")
    return line[..<start.upperBound] + "\(call.result) @device.\(number(of: call))(\(list))"
  }

  /// What tells of a store to shared memory; nil for another line.
  private static func note(of line: String) -> String? {
    let line = line.trimmed
    guard line.hasPrefix("store "), let address = line.range(of: ", ptr addrspace(3) ") else { return nil }
    let end = line.range(of: ", align ", options: .backwards)?.lowerBound ?? line.endIndex
    let type = type(line.dropFirst("store ".count))
    let size = "i32 ptrtoint (ptr getelementptr (\(type), ptr null, i32 1) to i32)"
    return "  call void @device.wrote(ptr addrspace(3) \(line[address.upperBound..<end]), \(size))\n"
  }

  // MARK: - Functions

  private static func shim(_ number: Int, _ call: Call) -> String {
    let parameters = call.arguments.enumerated().map { "\($1) %a\($0)" }.joined(separator: ", ")
    var text = "define internal \(call.result) @device.\(number)(\(parameters)) noinline {\n"
    text += "  %arguments = alloca [\(max(1, call.arguments.count)) x [\(argumentStride) x i8]], align 16\n"
    for (index, type) in call.arguments.enumerated() {
      text += "  %p\(index) = getelementptr i8, ptr %arguments, i64 \(index * argumentStride)\n"
      text += "  store \(type) %a\(index), ptr %p\(index)\n"
    }
    if call.result == "void" {
      return text + "  call void @device.ask(i32 \(number), ptr %arguments, ptr null)\n  ret void\n}\n"
    }
    text += "  %results = alloca \(call.result), align 16\n"
    text += "  call void @device.ask(i32 \(number), ptr %arguments, ptr %results)\n"
    return text + "  %r = load \(call.result), ptr %results\n  ret \(call.result) %r\n}\n"
  }

  private static func runner(_ definition: String) -> String {
    guard let at = definition.firstIndex(of: "@"), let open = definition[at...].firstIndex(of: "(") else { return "" }
    let name = definition[definition.index(after: at)..<open]
    let types = list(definition[open...]).map(type)
    var text = "define void @run.\(name)(ptr %parameters) {\n"
    for (index, type) in types.enumerated() {
      text +=
        "  %s\(index) = getelementptr ptr, ptr %parameters, i64 \(index)\n  %p\(index) = load ptr, ptr %s\(index)\n"
      text += "  %v\(index) = load \(type), ptr %p\(index)\n"
    }
    let arguments = types.enumerated().map { "\($1) %v\($0)" }.joined(separator: ", ")
    return text + "  call void @\(name)(\(arguments))\n  ret void\n}\n"
  }

  /// fp32 to bf16, to nearest even.
  private static let rounding = """
    define internal bfloat @device.round(float %x) {
      %bits = bitcast float %x to i32
      %shifted = lshr i32 %bits, 16
      %odd = and i32 %shifted, 1
      %half = add i32 %odd, 32767
      %sum = add i32 %bits, %half
      %isNumber = fcmp ord float %x, %x
      %quiet = or i32 %bits, 4194304
      %chosen = select i1 %isNumber, i32 %sum, i32 %quiet
      %upper = lshr i32 %chosen, 16
      %short = trunc i32 %upper to i16
      %result = bitcast i16 %short to bfloat
      ret bfloat %result
    }

    """

  // MARK: - Reading

  /// What stands between a parenthesis and its partner, cut at its commas.
  private static func list(_ text: Substring) -> [String] {
    var (depth, items, item) = (0, [String](), "")
    for character in text {
      if "([{<".contains(character) { depth += 1 }
      if ")]}>".contains(character) { depth -= 1 }
      if depth == 0 { break }
      if depth == 1, character == "," {
        items.append(item)
        item = ""
      } else if depth > 1 || character != "(" {
        item.append(character)
      }
    }
    items.append(item)
    return items.map { $0.trimmed }.filter { !$0.isEmpty }
  }

  /// The type that a text begins with.
  private static func type(_ text: some StringProtocol) -> String {
    var rest = String(text).trimmed
    for word in ["tail ", "noundef "] where rest.hasPrefix(word) { rest.removeFirst(word.count) }
    if rest.hasPrefix("ptr addrspace("), let end = rest.firstIndex(of: ")") { return String(rest[...end]) }
    guard let first = rest.first, "<{[".contains(first) else { return String(rest.prefix { $0 != " " }) }
    var depth = 0
    for index in rest.indices {
      if "<{[(".contains(rest[index]) { depth += 1 }
      if ">}])".contains(rest[index]) { depth -= 1 }
      if depth == 0 { return String(rest[...index]) }
    }
    return rest
  }

  /// Text with `\0A` and the like as the characters that they stand for.
  private static func unescaped(_ text: Substring) -> String {
    var (result, rest) = ("", text)
    while let slash = rest.firstIndex(of: "\\") {
      result += rest[..<slash]
      let digits = rest[slash...].dropFirst().prefix(2)
      result.unicodeScalars.append(UInt32(digits, radix: 16).flatMap(Unicode.Scalar.init) ?? "\\")
      rest = rest[slash...].dropFirst(3)
    }
    return result + rest
  }
}

extension String {
  /// Without blanks at either end.
  var trimmed: String {
    var rest = Substring(self)
    while rest.first?.isWhitespace == true { rest.removeFirst() }
    while rest.last?.isWhitespace == true { rest.removeLast() }
    return String(rest)
  }
}
