extension ModulePass {
  /// Every pass, in the order in which help lists them: the one list to add a new pass to.
  public static let all: [ModulePass] = [
    canonicalize,
    eliminateCommonSubexpressions,
    eliminateDeadCode,
    foldWeights,
    semiLocalAttention,
    attentionTruncation,
    cachedScoring,
    lowerPrecision,
    pruneDemand,
    fuse,
  ]

  /// The pass of this name.
  public static func named(_ name: String) throws(PassError) -> ModulePass {
    if let pass = all.first(where: { $0.name == name }) { return pass }
    throw PassError("there is no pass \"\(name)\"; known are \(all.map(\.name).joined(separator: ", "))")
  }
}

extension PassPipeline {
  /// The passes of `-O0` to `-O3`; all exact. Levels outside are taken as the nearest.
  public init(level: Int) {
    var passes: [ModulePass] = []
    if level > 0 { passes += [canonicalize, eliminateCommonSubexpressions, eliminateDeadCode] }
    // Lower precision, where it is asked for, has run before: it rounds what folding would take away.
    // Fewer rows make masks simpler.
    if level > 1 { passes += [foldWeights, pruneDemand, canonicalize, eliminateDeadCode, fuse] }
    self.init(passes)
  }
}
