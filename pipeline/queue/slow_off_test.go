//go:build !race

package queue_test

const slowed = false
