extension Module: CustomStringConvertible {
  /// The module in its text form, which `TensorIRParser` reads back to an equal module.
  public var text: String {
    var text = "module \(TextName.quoted(name))\n"
    if !weights.isEmpty { text += "\n" }
    for weight in weights {
      let formula = weight.formula.map { " = \($0.text)" } ?? ""
      text += "weight @\(TextName.quoted(weight.name)) : \(weight.type)\(formula)\n"
    }
    for function in functions { text += "\n" + function.text(in: self) }
    return text
  }

  /// The text form.
  public var description: String { text }
}

extension Function {
  /// The function in its text form; `module` is the one whose weights it reads.
  public func text(in module: Module) -> String {
    let arguments = arguments.map { "%\(TextName.quoted(self[$0].name)): \(self[$0].type)" }.joined(separator: ", ")
    let results = results.map { "\(TextName.quoted($0.name)): \(self[$0.value].type)" }.joined(separator: ", ")
    var text = "func @\(TextName.quoted(name))(\(arguments)) -> (\(results)) {\n"
    for unit in units {
      let indentation = unit.region == nil ? "  " : "    "
      if unit.region != nil { text += "  region over \(rows(of: unit.operations[0])?.description ?? "no rows") {\n" }
      for id in unit.operations { text += "\(indentation)\(self.text(of: id, in: module))\n" }
      if unit.region != nil { text += "  }\n" }
    }
    let returned = self.results.map { reference($0.value, in: module) }.joined(separator: ", ")
    text += returned.isEmpty ? "  return\n" : "  return \(returned)\n"
    return text + "}\n"
  }

  /// One operation as a line of text, without indentation.
  public func text(of id: OperationID, in module: Module) -> String {
    let operation = self[id]
    let names = operation.results.map { "%\(TextName.quoted(self[$0].name))" }.joined(separator: ", ")
    let operands = operation.operands.map { reference($0, in: module) }.joined(separator: ", ")
    let types = operation.results.map { self[$0].type.description }.joined(separator: ", ")
    let (mnemonic, attributes) = (operation.payload.mnemonic, operation.payload.attributeText)
    return "\(names) = \(mnemonic)\(operands.isEmpty ? "" : " ")\(operands)\(attributes) : \(types)"
  }

  /// How an operand is written: `%name`, or `@name` for a weight.
  func reference(_ id: ValueID, in module: Module) -> String {
    if case .weight(let weight) = self[id].definition { return "@\(TextName.quoted(module[weight].name))" }
    return "%\(TextName.quoted(self[id].name))"
  }
}
