// Package house has no code of its own. Its tests hold the rules of the house: which room may import which, where a
// library may be used, and the habits that a compiler does not see. Each rule gives its reason when it is broken.
package house
