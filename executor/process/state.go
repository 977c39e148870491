package process

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"lambent"
	"lambent/internal/sandbox"
)

// state is what another process must know of an instance to adopt it. It holds no secrets.
type state struct {
	Format   int               `json:"format"` // stateFormat
	Level    string            `json:"level"`
	PID      int               `json:"pid"`   // of lambent-init
	Start    string            `json:"start"` // of lambent-init: starttime of proc_pid_stat(5)
	Revision *lambent.Revision `json:"revision"`
	Phases   lambent.Phases    `json:"phases_ms"`
	OnPort   bool              `json:"on_port"` // requests reach it on its port, not on the socket
	Shims    string            `json:"shims"`   // folder below runtimeDir that its own one is in
	Nonce    []byte            `json:"nonce"`   // see backlog
	Salt     []byte            `json:"salt"`
	Secrets  []byte            `json:"secrets"` // see digest
}

// stateFormat changes when what an older Lambent wrote means something else.
const stateFormat = 1

// digest of secrets, by which they can be compared without being known.
func digest(salt []byte, secrets map[string]string) []byte {
	h := hmac.New(sha256.New, salt)
	for _, target := range slices.Sorted(maps.Keys(secrets)) {
		for _, text := range []string{target, secrets[target]} {
			h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(text))))
			h.Write([]byte(text))
		}
	}
	return h.Sum(nil)
}

func (s *state) same(secrets map[string]string) bool {
	return hmac.Equal(digest(s.Salt, secrets), s.Secrets)
}

// save writes the state of an instance that is ready: before that nobody shall adopt it. A part of it is no JSON, so it
// is as good as none. That the disk has it does not matter, as no instance outlives the machine.
func (in *instance) save(secrets map[string]string) error {
	stat, err := sandbox.Stat(in.pid)
	if err != nil {
		return err
	}
	s := state{
		Format: stateFormat, Level: in.exec.level, PID: in.pid, Start: stat[statStart], Revision: in.revision,
		Phases: in.phases, OnPort: in.guest.OnPort(), Shims: in.exec.shims.name(), Nonce: in.backlog.nonce, Salt: make([]byte, 16),
	}
	rand.Read(s.Salt)
	s.Secrets = digest(s.Salt, secrets)
	raw, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return os.WriteFile(in.exec.path(in.id, fileState), raw, 0o600)
}

const (
	statStart = 19      // starttime in what sandbox.Stat gives
	maxState  = 1 << 20 // bytes of a state file
)

// load reads the state of an instance that can be adopted: one that was ready, as this executor makes them.
func (e *Executor) load(id string) (*state, error) {
	info, err := os.Lstat(e.path(id, fileState))
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxState {
		return nil, errors.New("its state is no small file")
	}
	raw, err := os.ReadFile(e.path(id, fileState))
	if err != nil {
		return nil, err
	}
	s := new(state)
	if err := json.Unmarshal(raw, s); err != nil {
		return nil, fmt.Errorf("its state is damaged: %w", err)
	}
	if s.Format != stateFormat || s.Revision == nil || s.PID <= 1 || s.Level != e.level || len(s.Nonce) != nonceSize {
		return nil, errors.New("its state is another Lambent's, or of another level of isolation")
	}
	return s, nil
}

// find gives the process of the state, if it is the lambent-init that it was.
func (e *Executor) find(id string, s *state) (*stranger, error) {
	p, err := openStranger(s.PID)
	if err != nil {
		return nil, err
	}
	stat, err := sandbox.Stat(s.PID)
	if err == nil && (stat[statStart] != s.Start || idOf(s.PID, e.name) != id) {
		err = errors.New("the pid is another's")
	}
	if err == nil {
		err = p.Signal(unix.Signal(0)) // it lived while we looked
	}
	if err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}
