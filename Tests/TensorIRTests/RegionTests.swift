import TensorIR
import Testing

/// What the text form cannot say of regions, and what edits leave of them.
@Suite("Regions")
struct RegionTests {
  private func module() throws -> Module {
    try TensorIRParser.parse(
      """
      module m
      func @forward(%x: tensor<rows x 4 x f32>) -> (y: tensor<rows x 4 x f32>) {
        region {
          %a = silu %x
          %b = sigmoid %a
        }
        region {
          %c = add %a, %b
        }
        %y = scale %c {factor = 2}
        return %y
      }
      """)
  }

  @Test("regions that meet stay two, and an operation outside is alone")
  func units() throws {
    let function = try module().functions[0]
    #expect(function.units.map(\.operations.count) == [2, 1, 1])
    #expect(function.units.map { $0.region == nil } == [false, false, true])
    #expect(function.units[0].region != function.units[1].region)
  }

  @Test("a region that an edit tore apart is refused")
  func apart() throws {
    var module = try module()
    let body = module.functions[0].body
    // The second operation of the first region, into the second region.
    module.functions[0][body[3]].region = module.functions[0][body[0]].region
    #expect(module.verificationErrors().map(\.message) == ["stands apart from the other operations of its region"])
  }

  @Test("operations leave their regions")
  func dissolve() throws {
    var module = try module()
    #expect(module.functions[0].dissolveRegions() == 2)
    #expect(!module.text.contains("region"))
    try module.verify()
  }
}
