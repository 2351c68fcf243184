extension FamilyNames {
  /// Retrieval models of the research code (SEMANTICS section 7): its HSTU module, whose names are the same under
  /// `generative_recommenders/modeling` and, later, `generative_recommenders/research/modeling`.
  static let research = FamilyNames(
    title: "a retrieval model of the research code (gr-retrieval)", example: "_hstu._attention_layers.0._uvqk",
    roots: ["_hstu", "_embedding_module", "_input_features_preproc", "_attn_mask"],
    patterns: [
      NamePattern("_hstu._attention_layers.{i}._uvqk", .layer(.uvqkWeight), [.width, .uvqk]),
      NamePattern("_hstu._attention_layers.{i}._o.weight", .layer(.outputWeight), [.width, .outputInner]),
      NamePattern("_hstu._attention_layers.{i}._o.bias", .layer(.outputBias), [.width]),
      NamePattern("_hstu._attention_layers.{i}._rel_attn_bias._pos_w", .layer(.positionBias), [.positionBias]),
      NamePattern("_hstu._attention_layers.{i}._rel_attn_bias._w", .layer(.positionBias), [.positionBias]),
      NamePattern("_hstu._attention_layers.{i}._rel_attn_bias._ts_w", .layer(.timeBias), [.timeBias]),
      NamePattern("_embedding_module._item_emb.weight", .model(.itemTable), [.itemRows, .width]),
      NamePattern("_input_features_preproc._pos_emb.weight", .model(.positionTable), [.positionRows, .width]),
      NamePattern("_attn_mask", .attentionMask, [.maskSize, .maskSize]),
    ],
    refusals: [
      (
        "_input_features_preproc._rating_emb", "ratings that stand beside items or between them",
        "only LearnablePositionalEmbeddingInputFeaturesPreprocessor can be imported"
      ),
      (
        "_embedding_module._item_id_to_category_id", "items that share the rows of categories",
        "only LocalEmbeddingModule can be imported"
      ),
    ])

  /// Retrieval models of production layers on summed item and action embeddings, the ULTRA form: a stack under the names that it has in a
  /// whole ranking model, in a transducer, or alone (GR's HSTUUltraStack), with or without tables and positions.
  static let stack = FamilyNames(
    title: "a retrieval model of production layers (gr-retrieval)",
    example: "_hstu_transducer._stu_module._stu_layers.0._uvqk_weight",
    roots: [
      "_hstu_transducer", "_embedding_collection", "_stu_module", "_stu_layers", "_positional_encoder",
      "_output_postprocessor",
    ],
    patterns: productionLayers([
      "_hstu_transducer._stu_module._stu_layers.{i}.", "_stu_module._stu_layers.{i}.", "_stu_layers.{i}.",
    ]) + [NamePattern("_embedding_collection.embeddings.{table}.weight", .table, [])]
      + preset(
        .positionTable, [.positionRows, .width], also: ["_positional_encoder._position_embeddings_weight"])
      + outputNorm + stored
      + (outputNorm + stored).map { NamePattern($0.name.replacing("_hstu_transducer.", with: ""), $0.role, $0.shape) },
    refusals: [
      (
        "_hstu_transducer._input_preprocessor", "a preprocessor of events",
        "a whole ranking model is of --family gr-ranking"
      ),
      (
        "_hstu_transducer._positional_encoder._timestamp_embeddings_weight", "rows for times",
        "they are part of whole ranking models, of --family gr-ranking"
      ),
      (
        "_positional_encoder._timestamp_embeddings_weight", "rows for times",
        "they are part of whole ranking models, of --family gr-ranking"
      ),
    ])
}
