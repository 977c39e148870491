package lambent

import (
	"fmt"
	"time"
)

// Duration is a time.Duration that reads and writes as Go's text form ("250ms", "1h30m") in JSON and YAML.
type Duration time.Duration

// D is the duration as the standard type.
func (d Duration) D() time.Duration { return time.Duration(d) }

// String is Go's text form.
func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText gives Go's text form.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads Go's text form and refuses anything else, a bare number too: its unit would be a guess.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%q is not a duration such as 250ms, 30s or 1h", text)
	}
	*d = Duration(v)
	return nil
}
