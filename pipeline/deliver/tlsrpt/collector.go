package tlsrpt

// Collector counts. Safe for concurrent use.
type Collector struct{}
