package memory_test

import (
	"testing"

	"go.uber.org/goleak"

	"lambent/store"
	"lambent/store/memory"
	"lambent/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestStore(t *testing.T) {
	storetest.Run(t, func(*testing.T) store.Store { return memory.New() })
}
