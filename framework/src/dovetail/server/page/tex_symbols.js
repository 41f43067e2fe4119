// What the commands of TeX stand for. Pairs are written "name character", or "name" alone where the command shows its own name.
"use strict";

const pairs = (text) => new Map(text.trim().split(/\s+/).map((pair) => pair.split("=")));

/** Shown as identifiers. */
const TEX_LETTERS = pairs(`
  alpha=α beta=β gamma=γ delta=δ epsilon=ϵ varepsilon=ε zeta=ζ eta=η theta=θ vartheta=ϑ iota=ι kappa=κ lambda=λ mu=μ nu=ν xi=ξ pi=π varpi=ϖ
  rho=ρ varrho=ϱ sigma=σ varsigma=ς tau=τ upsilon=υ phi=ϕ varphi=φ chi=χ psi=ψ omega=ω Gamma=Γ Delta=Δ Theta=Θ Lambda=Λ Xi=Ξ Pi=Π Sigma=Σ
  Upsilon=Υ Phi=Φ Psi=Ψ Omega=Ω infty=∞ partial=∂ nabla=∇ ell=ℓ hbar=ℏ Re=ℜ Im=ℑ aleph=ℵ wp=℘ emptyset=∅ varnothing=∅ imath=ı jmath=ȷ
  dots=… ldots=… cdots=⋯ vdots=⋮ ddots=⋱ dotsc=… dotsb=⋯ angle=∠ degree=° top=⊤ bot=⊥ forall=∀ exists=∃ nexists=∄ square=□ blacksquare=■
  %=% $=$ #=# _=_ &=&
`);

/** Shown as operators. */
const TEX_OPERATORS = pairs(`
  times=× div=÷ cdot=⋅ pm=± mp=∓ ast=∗ star=⋆ circ=∘ bullet=∙ oplus=⊕ ominus=⊖ otimes=⊗ odot=⊙ cap=∩ cup=∪ wedge=∧ land=∧ vee=∨ lor=∨ neg=¬
  lnot=¬ setminus=∖ le=≤ leq=≤ leqslant=⩽ ge=≥ geq=≥ geqslant=⩾ ne=≠ neq=≠ ll=≪ gg=≫ approx=≈ sim=∼ simeq=≃ cong=≅ equiv=≡ propto=∝ prec=≺
  succ=≻ in=∈ notin=∉ ni=∋ subset=⊂ supset=⊃ subseteq=⊆ supseteq=⊇ subsetneq=⊊ mid=∣ nmid=∤ parallel=∥ perp=⊥ vdash=⊢ models=⊨ to=→ rightarrow=→
  longrightarrow=⟶ leftarrow=← gets=← leftrightarrow=↔ Rightarrow=⇒ implies=⟹ Longrightarrow=⟹ Leftarrow=⇐ Leftrightarrow=⇔ iff=⟺ mapsto=↦
  uparrow=↑ downarrow=↓ hookrightarrow=↪ rightharpoonup=⇀ therefore=∴ because=∵ colon=: prime=′ backslash=\\ triangle=△ bmod=mod
`);

/** Operators whose limits stand above and below them. */
const TEX_LIMITS = pairs(`
  sum=∑ prod=∏ coprod=∐ bigcup=⋃ bigcap=⋂ bigoplus=⨁ bigotimes=⨂ bigvee=⋁ bigwedge=⋀ lim=lim limsup=limsup liminf=liminf max=max min=min sup=sup
  inf=inf argmax=argmax argmin=argmin gcd=gcd det=det Pr=Pr
`);
const TEX_INTEGRALS = pairs("int=∫ iint=∬ iiint=∭ oint=∮");
const TEX_FUNCTIONS = new Set(
  "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln lg exp dim ker deg hom arg".split(" "),
);
const TEX_ACCENTS = pairs(`
  hat=^ widehat=^ bar=¯ overline=‾ tilde=~ widetilde=~ vec=→ overrightarrow=→ dot=˙ ddot=¨ overbrace=⏞ check=ˇ underline=_ underbrace=⏟
`);
const TEX_DELIMITERS = pairs(`
  {={ }=} lbrace={ rbrace=} langle=⟨ rangle=⟩ lfloor=⌊ rfloor=⌋ lceil=⌈ rceil=⌉ |=‖ Vert=‖ vert=| lvert=| rvert=| lVert=‖ rVert=‖ lbrack=[ rbrack=]
`);
const TEX_SPACES = pairs(`,=0.17em :=0.22em ;=0.28em !=-0.17em quad=1em qquad=2em thinspace=0.17em`);
TEX_SPACES.set(" ", "0.28em");

/** Environments, with what stands before and behind their tables. */
const TEX_TABLES = new Map([
  ["matrix", ["", ""]], ["smallmatrix", ["", ""]], ["pmatrix", ["(", ")"]], ["bmatrix", ["[", "]"]], ["Bmatrix", ["{", "}"]],
  ["vmatrix", ["|", "|"]], ["Vmatrix", ["‖", "‖"]], ["cases", ["{", ""]], ["array", ["", ""]], ["aligned", ["", ""]], ["align", ["", ""]],
  ["align*", ["", ""]], ["split", ["", ""]], ["gathered", ["", ""]], ["equation", ["", ""]], ["equation*", ["", ""]],
]); // prettier-ignore

/** Alphabets: where A, a and 0 begin, and the letters that Unicode had before. */
const TEX_ALPHABETS = {
  mathbb: { A: 0x1d538, a: 0x1d552, 0: 0x1d7d8, C: "ℂ", H: "ℍ", N: "ℕ", P: "ℙ", Q: "ℚ", R: "ℝ", Z: "ℤ" },
  mathbf: { A: 0x1d400, a: 0x1d41a, 0: 0x1d7ce },
  boldsymbol: { A: 0x1d400, a: 0x1d41a, 0: 0x1d7ce },
  mathcal: { A: 0x1d49c, a: 0x1d4b6, B: "ℬ", E: "ℰ", F: "ℱ", H: "ℋ", I: "ℐ", L: "ℒ", M: "ℳ", R: "ℛ", e: "ℯ", g: "ℊ", o: "ℴ" },
  mathfrak: { A: 0x1d504, a: 0x1d51e, C: "ℭ", H: "ℌ", I: "ℑ", R: "ℜ", Z: "ℨ" },
};

function inAlphabet(alphabet, character) {
  const own = alphabet[character];
  if (typeof own === "string") return own;
  const first = /[A-Z]/.test(character) ? "A" : /[a-z]/.test(character) ? "a" : /[0-9]/.test(character) ? "0" : "";
  if (!first || !alphabet[first]) return character;
  return String.fromCodePoint(alphabet[first] + character.charCodeAt(0) - first.charCodeAt(0));
}
