package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"lambent/builder"
	"lambent/internal/durable"
	"lambent/internal/handover"
	"lambent/internal/keypair"
)

// Config says how to run a daemon. Data is needed.
type Config struct {
	Data    string // folder of everything that is kept
	Listen  string // address of the functions listener; default 127.0.0.1:8080, port 0 for any
	Control string // address of the control listener; default 127.0.0.1:8081, port 0 for any
	// TLS are the certificates of the functions listener, chosen by the name that a client asks for. The control
	// listener takes them too, unless only this machine reaches it.
	TLS []keypair.Files
	// EgressPermit are private networks that egress rules of functions may allow; see egress.Options.
	EgressPermit []netip.Prefix
	// Unsandboxed lets functions run without a sandbox where this node cannot make one.
	Unsandboxed bool
	// BuildEgress is what builds may connect to, as egress rules; default builder.AnyHost.
	BuildEgress []string
	AcceptLoss  bool // open a store that lost acknowledged writes
	Version     string
	Logger      *slog.Logger
	Drain       time.Duration // how long calls under way may take when the daemon stops; default 30s
	Idle        time.Duration // how long a connection that waits for its next request is kept then; default 1s
	// Hurry ends when a daemon that stops is to be done with it: what is under way is cut, and instances are killed.
	Hurry context.Context
	// Args are the arguments of this program, which another is started with to take this one's place; nil where
	// that is not possible. Before is the process whose place this one takes, nil for none.
	Args   []string
	Before *handover.Conn
	// Serving is called once, when both listeners serve.
	Serving func(Endpoints)
}

// Endpoints are the URLs that a running daemon serves at; they stand in endpoints.json in its data folder.
type Endpoints struct {
	Functions string `json:"functions"`
	Control   string `json:"control"`
	KeyFile   string `json:"key_file"`
	// CAFile holds a certificate to trust in, beside those that the machine trusts in; "" without TLS.
	CAFile string `json:"ca_file,omitempty"`
	// NewKey says that this start made the key.
	NewKey bool `json:"-"`
}

func (c *Config) complete() {
	if c.Listen == "" {
		c.Listen = "127.0.0.1:8080"
	}
	if c.Control == "" {
		c.Control = "127.0.0.1:8081"
	}
	if c.BuildEgress == nil {
		c.BuildEgress = builder.AnyHost
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Drain == 0 {
		c.Drain = 30 * time.Second
	}
	if c.Hurry == nil {
		c.Hurry = context.Background()
	}
	if c.Idle == 0 {
		c.Idle = time.Second
	}
	if c.Serving == nil {
		c.Serving = func(Endpoints) {}
	}
}

func (c *Config) path(name string) string { return filepath.Join(c.Data, name) }

func (c *Config) writeEndpoints(e Endpoints) error {
	raw, err := json.MarshalIndent(e, "", "  ")
	if err != nil {
		return err
	}
	raw = append(raw, '\n')
	if old, err := os.ReadFile(c.path("endpoints.json")); err == nil && bytes.Equal(old, raw) {
		return nil // the disk may be full
	}
	return durable.WriteFile(c.path("endpoints.json"), raw, 0o644)
}
