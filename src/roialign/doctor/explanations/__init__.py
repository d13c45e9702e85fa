"""What may have been done to a healthy call to give the one that was seen, weighed against one another."""

from roialign.doctor.explanations.telling import findings as findings
from roialign.doctor.explanations.telling import split as split
from roialign.doctor.explanations.telling import tell as tell
from roialign.doctor.explanations.weigh import Beliefs as Beliefs
from roialign.doctor.explanations.weigh import Explanation as Explanation
from roialign.doctor.explanations.weigh import Weighed as Weighed
from roialign.doctor.explanations.weigh import weigh as weigh
