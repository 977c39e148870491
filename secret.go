package lambent

import "time"

// UsesSecret tells whether s names a secret.
func (s *Settings) UsesSecret(name string) bool {
	for _, used := range s.Secrets {
		if used == name {
			return true
		}
	}
	return false
}

// MaxSecret is the size of the largest secret, in bytes.
const MaxSecret = 64 << 10

// Secret is what the platform tells of a secret: everything but its value.
type Secret struct {
	Namespace string    `json:"namespace"`
	Name      string    `json:"name"`
	Version   uint64    `json:"version"` // counts its values, from 1 on
	Created   time.Time `json:"created"`
	Updated   time.Time `json:"updated"` // when it got its value
}
