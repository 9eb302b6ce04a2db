//go:build race

package queue_test

// slowed reports that the race detector makes everything ten times as slow.
const slowed = true
