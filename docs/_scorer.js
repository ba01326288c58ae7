// The order of search results (html_search_scorer): a guide whose title has the word comes before the reference.
var Scorer = {
  score: ([page, , , , score]) => (page.startsWith("howto/") && score >= Scorer.title ? score + 20 : score),

  // Sphinx's own numbers
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
