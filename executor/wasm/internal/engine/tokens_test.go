package engine

import (
	"slices"
	"testing"
)

// TestTokens: those that have run longer wait for the others, but get each fifth turn.
func TestTokens(t *testing.T) {
	tokens := newTokens(1)
	token, ok := tokens.get(new(waiter), false)
	if !ok || token != 0 {
		t.Fatal("there is no token")
	}
	waiters := map[string]*waiter{}
	for _, name := range []string{"long 1", "long 2", "1", "2", "3", "4", "5", "6", "7", "gone", "8", "9"} {
		w := new(waiter)
		waiters[name] = w
		if _, ok := tokens.get(w, name[0] == 'l'); ok {
			t.Fatalf("%s need not wait", name)
		}
	}
	if _, got := tokens.leave(waiters["gone"]); got {
		t.Fatal("who left has a token")
	}
	var order []string
	for {
		tokens.put(token)
		next := ""
		for name, w := range waiters {
			select {
			case token = <-w.ready:
				next = name
			default:
			}
		}
		if next == "" {
			break
		}
		order = append(order, next)
	}
	want := []string{"1", "2", "3", "4", "long 1", "5", "6", "7", "8", "long 2", "9"}
	if !slices.Equal(order, want) {
		t.Fatalf("%q, want %q", order, want)
	}
	if len(tokens.free) != 1 {
		t.Fatal("the token is gone")
	}
}

// TestTokenGrantedWhileLeaving: who leaves may have got a token in that moment, and must not lose it.
func TestTokenGrantedWhileLeaving(t *testing.T) {
	tokens := newTokens(1)
	token, _ := tokens.get(new(waiter), false)
	w := new(waiter)
	tokens.get(w, false)
	tokens.put(token)
	if got, ok := tokens.leave(w); !ok || got != token {
		t.Fatalf("%d, %v", got, ok)
	}
}
