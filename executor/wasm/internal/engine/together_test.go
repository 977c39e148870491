package engine

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"lambent/executor/wasm/internal/abi"
)

// TestTogether does everything at once: calls that go well, trap, loop and want too much, of programs that come and go, while
// the engine tidies. Every call must find its guest pristine, and in the end nothing may be left.
func TestTogether(t *testing.T) {
	e := open(t, Options{Memory: 256 << 20})
	files := pack(t, cGuest(t))
	e.stacks.tidy(0)
	maps := e.maps.used.Load()
	var programs []*Program
	for _, wasm := range [][]byte{cGuest(t), cCommand(t), oneShot} {
		p, err := e.Load(t.Context(), pack(t, wasm), 16<<20)
		check(t, err)
		programs = append(programs, p)
	}
	c, command, fresh := programs[0], programs[1], programs[2]
	says := func(p *Program, request *abi.Call, want string) {
		if got, _, err := callWith(t.Context(), p, request, Limits{}); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", request.Target, got, err, want)
		}
	}
	fails := func(p *Program, target string, want Reason) {
		_, _, err := callWith(t.Context(), p, to(target), Limits{Deadline: time.Now().Add(5 * time.Millisecond)})
		if err == nil || want != "" && reason(err) != want && reason(err) != Deadline {
			t.Errorf("%s: %v", target, err)
		}
	}
	deeds := []func(){
		func() { says(c, to("/count"), "42") },
		func() { says(c, to("/echo", "x"), "x") },
		func() {
			secret := fmt.Sprintf("secret %d", rand.Int64())
			says(c, to("/hide", secret), "5")
			says(c, to("/find", secret), "0")
		},
		func() { says(command, to("/", "y"), "run 1: y") },
		func() { says(fresh, to("/"), "hello") },
		func() { fails(c, "/trap", "") },
		func() { fails(c, "/bomb", Memory) },
		func() { fails(c, "/loop", Deadline) },
		func() { e.tidy(e.now() + time.Duration(rand.Int64N(int64(2*idleGone)))) },
		func() { e.squeeze() },
		func() {
			p, err := e.Load(t.Context(), files, 16<<20)
			if err != nil {
				t.Error(err)
				return
			}
			says(p, to("/count"), "42")
			if err := p.Close(); err != nil {
				t.Error(err)
			}
		},
	}
	var wg sync.WaitGroup
	for range 12 {
		wg.Go(func() {
			for range 60 {
				deeds[rand.IntN(len(deeds))]()
			}
		})
	}
	wg.Wait()
	for _, p := range programs {
		check(t, p.Close())
	}
	e.stacks.tidy(0)
	if used := e.memory.used.Load(); used != 0 {
		t.Errorf("%d bytes are charged to nobody", used)
	}
	if used := e.maps.used.Load(); used != maps {
		t.Errorf("%d mappings are left", used-maps)
	}
}
