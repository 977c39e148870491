package executortest

import (
	"os"
	"strconv"
	"time"
)

// The environment that describes the machine to the tests.
const (
	fixtureEnv = "LAMBENT_TEST_FIXTURE" // a file with the fixture as built, where there is no Go
	slowerEnv  = "LAMBENT_TEST_SLOWER"  // how many times slower it is than what the tests are made for; Run tells
)

var (
	slower   = readSlower()
	patience = time.Minute * time.Duration(slower)                              // for one start or request
	brief    = 250*time.Millisecond + 50*time.Millisecond*time.Duration(slower) // for one that shall not end in time
)

// starts is how many ThousandStarts makes.
func starts() int { return max(1000/slower, 20) }

func readSlower() int {
	text := os.Getenv(slowerEnv)
	if text == "" {
		return 1
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		panic(slowerEnv + " must be a number from 1: " + text)
	}
	return n
}
