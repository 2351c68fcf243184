/// What one layer of attention needs: the attention itself, the products before it that make what it reads, and those after
/// it up to the next layer.
public struct LayerCost: Hashable, Sendable {
  /// Rows that the layer gives, of the whole batch.
  public var rows: Int
  /// Rows that it looks at.
  public var keys: Int
  /// Additions and multiplications, as `Cost` counts them.
  public var flops: Double
}

extension Function {
  /// The costs of the layers on a batch of this shape, in the order of their attentions. Products that belong to none, as
  /// those of embeddings and outputs, are left out.
  public func layerCosts(on batch: BatchShape) -> [LayerCost] {
    let owners = layerOwners
    var layers: [LayerCost] = []
    var analysis = CostAnalysis(function: self, batch: batch)
    var flops: [(layer: Int, flops: Double)] = []
    for id in body {
      let cost = analysis.visit(self[id])
      guard let layer = owners[id] else { continue }
      flops.append((layer, cost.flops))
      guard case .attention = self[id].payload else { continue }
      let operands = self[id].operands
      layers.append(LayerCost(rows: analysis.rowCount(operands[0]), keys: analysis.rowCount(operands[1]), flops: 0))
    }
    for (layer, count) in flops { layers[layer].flops += count }
    return layers
  }

  /// The layer of each attention and of each product that belongs to one: that whose attention it reads, with no other
  /// product between, or else that whose attention, or whose products after it, read it so.
  private var layerOwners: [OperationID: Int] {
    var owners: [OperationID: Int] = [:]
    var layer = 0
    /// The latest layer whose attention a value is made of.
    var below: [ValueID: Int] = [:]
    for id in body {
      let operation = self[id]
      let from = operation.operands.compactMap { below[$0] }.max()
      if case .attention = operation.payload {
        owners[id] = layer
        for result in operation.results { below[result] = layer }
        layer += 1
      } else if operation.payload.isProduct {
        owners[id] = from
      } else if let from {
        for result in operation.results { below[result] = from }
      }
    }
    /// The first layer that reads a value.
    var above: [ValueID: Int] = [:]
    for id in body.reversed() {
      let operation = self[id]
      let to = operation.results.compactMap { above[$0] }.min()
      if operation.payload.isProduct, owners[id] == nil { owners[id] = to }
      // A product without a layer of its own ends the search, and so does what is before a layer's first products.
      let isAttention = if case .attention = operation.payload { true } else { false }
      let isOutput = operation.payload.isProduct && operation.operands.contains { below[$0] != nil }
      let reader = isAttention || isOutput ? owners[id] : operation.payload.isProduct ? nil : to
      guard let reader else { continue }
      for operand in operation.operands { above[operand] = min(above[operand] ?? reader, reader) }
    }
    return owners
  }
}

extension Payload {
  /// Whether it multiplies rows by a matrix.
  fileprivate var isProduct: Bool {
    switch self {
    case .linear, .quantizedLinear: true
    default: false
    }
  }
}
