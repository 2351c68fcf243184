/// The version that `ultrac --version` prints and that manifests record.
public let compilerVersion = "0.1.0"
