//go:build race

package imap

// raceDetector is on: stacks are larger.
const raceDetector = true
