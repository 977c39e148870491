package lambent

// Build asks for the code that a source becomes.
type Build struct {
	Runtime string `json:"runtime"`
	Handler string `json:"handler,omitempty"`
	Source  string `json:"source"` // digest of the bundle with the source
}

// Built is the code that a source became.
type Built struct {
	Code     string  `json:"code"`            // digest of the bundle; the source's own where nothing had to be built
	Layer    string  `json:"layer,omitempty"` // digest of the dependencies, "" for none
	Cached   bool    `json:"cached"`          // no tool had to run
	Duration float64 `json:"duration_ms"`
}
