package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// hurry gives a context that ends with the second signal to stop. A third ends the process.
func hurry() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals // main takes the first
		<-signals
		cancel()
		signal.Stop(signals)
	}()
	return ctx
}
