// Package account knows who exists and how they prove it.
package account
