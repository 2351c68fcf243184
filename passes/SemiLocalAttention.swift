import TensorIR

/// Lets every row of causal attention see only its neighbours and a few rows that all see, or that see all.
///
/// Approximate: rows lose keys that they were trained with. Sources: arXiv 2602.16986, semi-local attention; the query
/// tail as in GR's ULTRA code, the key prefix as in TER (`Mask` says what each shows).
public let semiLocalAttention = ModulePass(
  name: "semi-local-attention", summary: "let rows see near rows, and a few rows all or all a few",
  options: SemiLocalAttentionOptions.self, exactness: .approximate
) { (module, options, context) throws(PassError) in
  var narrowed = 0
  var narrow = 0
  for index in module.functions.indices {
    var function = module.functions[index]
    for id in function.body {
      guard case .attention(var attention) = function[id].payload else { continue }
      guard attention.mask.form == .causal else {
        narrow += 1
        continue
      }
      do throws(PassError) {
        attention.mask = try options.mask(for: attention)
      } catch {
        throw PassError("%\(function[function[id].results[0]].name) of @\(function.name) \(error.message)")
      }
      function[id].payload = .attention(attention)
      narrowed += 1
    }
    module.functions[index] = function
  }
  context.note(narrowed, "attention", "made semi-local, \(options.summary)")
  context.note(narrow, "attention", "left with the narrower mask that it had")
}

/// What `semi-local-attention` takes.
public struct SemiLocalAttentionOptions: PassOptions {
  /// Which of the two published readings.
  public enum Form: String, CaseIterable, Sendable {
    /// Rows see the latest K1; the last K2 see all.
    case tail
    /// Rows see the latest K1 and the first K2.
    case prefix
  }

  /// K1: earlier rows that a row sees; under `prefix` the row itself is one of them.
  public var local: Int?
  /// K2: rows of the tail, or of the prefix.
  public var global: Int?
  /// The reading.
  public var form = Form.tail
  /// Under `prefix`, what target rows see; without it functions with targets are refused.
  public var targets: Mask.PrefixTargets?
  /// Contextual rows where the mask names none; nil keeps what it names.
  public var contextual: Int?

  /// Neither `local` nor `global`, which must be given.
  public init() {}

  /// `local`, `global`, `form`, `targets` and `contextual`.
  public static var list: [PassOption<SemiLocalAttentionOptions>] {
    [
      .integer("local", \.local, summary: "K1, the latest rows that a row sees; form=prefix counts the row itself"),
      .integer("global", \.global, summary: "K2, history rows that see all (tail), or that all see (prefix)"),
      .word("form", \.form, summary: "which published reading, tail where it is not given"),
      .word("targets", \.targets, summary: "with form=prefix, what targets see"),
      .integer("contextual", \.contextual, summary: "contextual rows of masks that name none"),
    ]
  }

  /// Numbers that are missing, an empty window, or an option of the other form.
  public var problem: String? {
    if local == nil { return "the option \"local\" is missing: K1, the latest rows that a row sees" }
    if global == nil { return "the option \"global\" is missing: K2, the rows of the tail or prefix; 0 for none" }
    if form == .tail && local == 0 { return "local: form=tail expects a whole number from 1, found \"0\"" }
    if form == .tail && targets != nil {
      return "the option \"targets\" is of form=prefix; under form=tail targets see all history and themselves"
    }
    return nil
  }

  fileprivate var summary: String { "local \(local ?? 0), global \(global ?? 0), \(form.rawValue)" }

  /// The mask that takes the place of a causal one. Throws where the attention needs an option that is not there, or has
  /// other contextual rows.
  fileprivate func mask(for attention: Attention) throws(PassError) -> Mask {
    let own = attention.mask.contextual
    if let contextual, own != 0, own != contextual {
      throw PassError("has \(own) contextual rows, but the option is contextual=\(contextual)")
    }
    let rows = contextual ?? own
    switch form {
    case .tail: return Mask(.windowed(window: local ?? 0, fullTail: global ?? 0), contextual: rows)
    case .prefix:
      if targets == nil && attention.hasTargets {
        throw PassError("has targets: say what they see, targets=history (not themselves) or targets=windowed")
      }
      // Without targets both words mean the same.
      return Mask(.keyPrefix(local: local ?? 0, global: global ?? 0, targets: targets ?? .history), contextual: rows)
    }
  }
}
