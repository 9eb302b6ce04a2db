package wire

import "testing"

// TestScram is the example of RFC 7677 section 3.
func TestScram(t *testing.T) {
	const nonce = "rOprNGfwEbeRWgbNEkqO"
	const first = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
	final, proof, err := answerScram("n=user,r="+nonce, nonce, first, "pencil")
	if err != nil {
		t.Fatal(err)
	}
	if want := "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="; final != want {
		t.Errorf("the client says %s, expected %s", final, want)
	}
	if want := "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="; proof != want {
		t.Errorf("the server has to say %s, expected %s", proof, want)
	}
}

// TestScramRefuses: DRILLS E4.6.
func TestScramRefuses(t *testing.T) {
	for _, first := range []string{
		"", "r=n", "r=nx", "r=nx,s=QQ==", "r=n,s=QQ==,i=4096", "r=xn,s=QQ==,i=4096", "r=nx,s=,i=4096", "r=nx,s=!,i=4096", "r=nx,s=QQ==,i=0",
		"r=nx,s=QQ==,i=-1", "r=nx,s=QQ==,i=99999999", "r=nx,s=QQ==,i=x", "m=x,r=nx,s=QQ==,i=4096",
	} {
		if _, _, err := answerScram("n=u,r=n", "n", first, "p"); err == nil {
			t.Errorf("%q is answered", first)
		}
	}
}
